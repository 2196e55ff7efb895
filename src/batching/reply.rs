//! A request, and its answer as it grows piece by piece.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::worker::Computed;
use super::{BatchError, Operation, Output};
use crate::model::{Matrix, Values};

/// The rows of one caller. Its pieces may be computed by several threads at once.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) rows: Matrix,
    deadline: Option<Instant>,
    answered_columns: usize,
    answer: Mutex<Answer>,
}

#[derive(Debug)]
struct Answer {
    /// Gone once the caller has been answered.
    reply: Option<oneshot::Sender<Result<Output, BatchError>>>,
    values: Buffer,
    squared_errors: Vec<f32>,
    squared_errors_input_units: Vec<f32>,
    rows_missing: usize,
}

/// Row-major, in the form in which the question came; empty until the first piece is there.
#[derive(Debug)]
enum Buffer {
    Float32Le(Vec<u8>),
    Floats(Vec<f32>),
}

impl Request {
    pub(super) fn new(
        rows: Matrix,
        answered_columns: usize,
        operation: Operation,
        deadline: Option<Instant>,
        reply: oneshot::Sender<Result<Output, BatchError>>,
    ) -> Self {
        let values = match rows.values() {
            Values::Float32Le(_) => Buffer::Float32Le(Vec::new()),
            Values::Floats(_) => Buffer::Floats(Vec::new()),
        };
        let errors = if operation == Operation::Reconstruct { rows.rows() } else { 0 };
        let answer = Answer {
            reply: Some(reply),
            values,
            squared_errors: vec![0.0; errors],
            squared_errors_input_units: vec![0.0; errors],
            rows_missing: rows.rows(),
        };
        Self { rows, deadline, answered_columns, answer: Mutex::new(answer) }
    }

    /// Bytes of a row of the question and of the answer.
    pub(super) fn row_bytes(&self) -> usize {
        (self.rows.columns() + self.answered_columns) * 4
    }

    /// Whether it is still worth computing at `now`. One whose deadline has passed is told so.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.fail(BatchError::DeadlineExceeded);
        }
        self.answer().reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    /// Answers with an error, unless it has been answered.
    pub(super) fn fail(&self, error: BatchError) {
        if let Some(reply) = self.answer().reply.take() {
            // A caller that has left needs no answer.
            let _ = reply.send(Err(error));
        }
    }

    /// Takes the results of the rows `piece`, which lie in `computed` from row `first` on; answers if they are the last.
    pub(super) fn put(&self, piece: Range<usize>, computed: &Computed, first: usize) {
        let source = first..first + piece.len();
        let columns = self.answered_columns;
        let numbers = piece.start * columns..piece.end * columns;
        let total = self.rows.rows() * columns;
        let mut answer = self.answer();
        if answer.reply.is_none() {
            return;
        }
        // One copy from the result to the reply.
        let broken = match &mut answer.values {
            Buffer::Float32Le(bytes) => {
                bytes.resize(total * 4, 0);
                let target = &mut bytes[numbers.start * 4..numbers.end * 4];
                computed.values.store_le(source.clone(), target);
                let (numbers, _) = target.as_chunks::<4>();
                numbers.iter().position(|number| !f32::from_le_bytes(*number).is_finite())
            }
            Buffer::Floats(floats) => {
                floats.resize(total, 0.0);
                let target = &mut floats[numbers];
                computed.values.store(source.clone(), target);
                target.iter().position(|number| !number.is_finite())
            }
        };
        let mut broken_row = broken.map(|index| index / columns);
        if let Some((errors, errors_input_units)) = &computed.errors {
            answer.squared_errors[piece.clone()].copy_from_slice(&errors[source.clone()]);
            answer.squared_errors_input_units[piece.clone()].copy_from_slice(&errors_input_units[source.clone()]);
            let finite = |row: usize| errors[row].is_finite() && errors_input_units[row].is_finite();
            broken_row = broken_row.or_else(|| source.clone().position(|row| !finite(row)));
        }
        answer.rows_missing -= piece.len();
        let result = match broken_row {
            Some(row) => Err(BatchError::ResultNotFinite { row: piece.start + row }),
            None if answer.rows_missing > 0 => return,
            None => answer.output(self.rows.rows(), columns),
        };
        if let Some(reply) = answer.reply.take() {
            let _ = reply.send(result);
        }
    }

    fn answer(&self) -> std::sync::MutexGuard<'_, Answer> {
        // A panic while it was held failed the request; nothing of it is used again.
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn output(&mut self, rows: usize, columns: usize) -> Result<Output, BatchError> {
        let values = match &mut self.values {
            Buffer::Float32Le(bytes) => Values::Float32Le(std::mem::take(bytes).into()),
            Buffer::Floats(floats) => Values::Floats(std::mem::take(floats)),
        };
        Ok(Output {
            // Rows came as u32, columns are at most the greatest width.
            matrix: Matrix::new(rows as u32, columns as u32, values)?,
            squared_errors: std::mem::take(&mut self.squared_errors),
            squared_errors_input_units: std::mem::take(&mut self.squared_errors_input_units),
        })
    }
}
