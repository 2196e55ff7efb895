//! `EncodeStream` and `DecodeStream`: one response per message, in order, with a bounded number of messages ahead of
//! the reader.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tonic::{Code, Request, Status, Streaming};

use super::auth::{CallerOf, caller};
use super::convert;
use super::deadline::deadline;
use super::limits::translate_status;
use super::observe::RequestContext;
use super::pb;
use super::stream::ResponseStream;
use crate::security::{CallerQuotaGuard, Refusal};
use crate::service::{
    Aligned, AllowedModel, AnswerFormat, BatchError, Bulk, BulkTask, ColumnMap, Decoder, Matrix, Readiness, Served,
    Service, ServiceError,
};
use crate::telemetry::call::within;

/// Maximum messages read ahead of the first unanswered one: enough to fill a batch while another is computed.
const MESSAGES_AHEAD_MAX: usize = 8;
/// Maximum bytes of these messages and their responses; at this limit, reading stops.
const BYTES_AHEAD_MAX: usize = 4 << 20;

/// The common content of messages of both streams.
pub(super) struct StreamRequest {
    model: Option<pb::ModelRef>,
    matrix: Option<pb::Matrix>,
    answer: AnswerFormat,
    /// The task, if the message sets one.
    task: Option<BulkTask>,
}

/// A message of `EncodeStream` or `DecodeStream`.
pub(super) trait Message: Send + 'static {
    /// The task of a stream whose first message does not set one.
    const TASK: BulkTask;

    /// Splits the message into its parts.
    ///
    /// # Errors
    /// If a field has an unknown value.
    fn question(self) -> Result<StreamRequest, ServiceError>;
}

impl Message for pb::EncodeStreamRequest {
    const TASK: BulkTask = BulkTask::Encode { code_length: 0 };

    fn question(self) -> Result<StreamRequest, ServiceError> {
        let Self { model, rows, code_length, answer_format } = self;
        let task = (code_length > 0).then_some(BulkTask::Encode { code_length });
        Ok(StreamRequest { model, matrix: rows, answer: convert::answer_format(answer_format)?, task })
    }
}

impl Message for pb::DecodeStreamRequest {
    const TASK: BulkTask = BulkTask::Decode(Decoder::Transpose);

    fn question(self) -> Result<StreamRequest, ServiceError> {
        let Self { model, codes, decoder, answer_format } = self;
        let is_said = decoder != i32::from(pb::Decoder::Unspecified);
        let task = is_said.then(|| convert::decoder(decoder).map(BulkTask::Decode)).transpose()?;
        Ok(StreamRequest { model, matrix: codes, answer: convert::answer_format(answer_format)?, task })
    }
}

/// The responses to `requests`.
///
/// The transport polls this stream only while the client reads responses. So a client that stops reading also stops
/// the reading of its requests.
pub(super) fn answers<Q, A>(
    service: &Service,
    request: Request<Streaming<Q>>,
    answer: impl Fn(Served, Vec<String>) -> A + Send + 'static,
) -> ResponseStream<A>
where
    Q: Message,
    A: 'static,
{
    let exchange = Exchange {
        service: service.clone(),
        context: RequestContext::of(request.extensions()),
        deadline: deadline(request.extensions()),
        caller: caller(request.extensions()),
        requests: request.into_inner(),
        stopping: service.lifecycle().watch(),
        opened: None,
        messages_read: 0,
        end: None,
        under_way: VecDeque::new(),
        bytes_ahead: 0,
        waiting: None,
    };
    let served = stream::unfold(Some(exchange), |exchange| async move {
        let mut exchange = exchange?;
        match exchange.next().await {
            Ok(Some(served)) => Some((Ok(served), Some(exchange))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    });
    Box::pin(served.map(move |served| served.map(|(served, notes)| answer(served, notes))))
}

/// State of one stream, from its first message to its last response.
struct Exchange<Q> {
    service: Service,
    context: RequestContext,
    deadline: Option<Instant>,
    caller: CallerOf,
    requests: Streaming<Q>,
    stopping: watch::Receiver<Readiness>,
    /// What the first message set.
    opened: Option<Opened>,
    messages_read: u64,
    /// Why reading has ended: no more messages, or the status that ends the stream.
    end: Option<Result<(), Status>>,
    /// Messages in flight, in order.
    under_way: VecDeque<UnderWay>,
    bytes_ahead: usize,
    /// A message that exceeds what the caller may have in flight; it waits until a response is sent.
    waiting: Option<Read>,
}

/// A message whose columns are in the order of the features.
struct Read {
    matrix: Matrix,
    answer: AnswerFormat,
    /// Notes about its columns, for the response.
    notes: Vec<String>,
}

/// Values that hold for all messages of a stream.
struct Opened {
    model: pb::ModelRef,
    task: BulkTask,
    /// The resolved version.
    bulk: Bulk,
    /// Column map of the newest message with column names; `None` if it needs no reordering.
    columns: Option<Arc<ColumnMap>>,
    /// The notes about columns that were sent last.
    notes_sent: Vec<String>,
}

/// A message in flight.
///
/// It is computed in a task of its own, which continues while the client does not read. So a client that never reads
/// again keeps no place in the queue. The task is aborted when this is dropped.
struct UnderWay {
    number: u64,
    bytes: usize,
    task: JoinHandle<Result<Served, ServiceError>>,
    notes: Vec<String>,
    _held: Option<CallerQuotaGuard>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<Q: Message> Exchange<Q> {
    /// The next response; `None` after the last.
    async fn next(&mut self) -> Result<Option<(Served, Vec<String>)>, Status> {
        loop {
            if self.under_way.is_empty()
                && let Some(end) = self.end.take()
            {
                return end.map(|()| None);
            }
            let reads = self.end.is_none() && self.waiting.is_none();
            let has_room = self.under_way.len() < MESSAGES_AHEAD_MAX && self.bytes_ahead < BYTES_AHEAD_MAX;
            tokio::select! {
                // Read before responding, so that the message read can be computed meanwhile.
                biased;
                () = passed(self.deadline) => return Err(ServiceError::from(BatchError::DeadlineExceeded).into()),
                () = stopped(&mut self.stopping), if reads => {
                    let error = ServiceError::ShuttingDown("responses already sent are valid, send the rest again");
                    self.end = Some(Err(error.into()));
                }
                question = self.requests.message(), if reads && has_room => {
                    if let Err(end) = self.take(question).await {
                        self.end = Some(end);
                    }
                }
                served = first(&mut self.under_way), if !self.under_way.is_empty() => {
                    let Some(mut answered) = self.under_way.pop_front() else { continue };
                    self.bytes_ahead -= answered.bytes;
                    let (number, notes) = (answered.number, std::mem::take(&mut answered.notes));
                    drop(answered);
                    if let Some(read) = self.waiting.take()
                        && let Err(error) = self.enter(self.messages_read, read)
                    {
                        self.end = Some(Err(error.of_message(self.messages_read).into()));
                    }
                    let served = served.map_err(|error| error.of_message(number))?;
                    self.context.served(served.version, served.output.timing);
                    return Ok(Some((served, notes)));
                }
            }
        }
    }

    /// Starts a message. An error is how the stream ends.
    async fn take(&mut self, question: Result<Option<Q>, Status>) -> Result<(), Result<(), Status>> {
        let number = self.messages_read + 1;
        match question {
            Ok(None) => Err(Ok(())),
            Ok(Some(question)) => {
                self.messages_read = number;
                self.start(number, question).await.map_err(|error| Err(error.of_message(number).into()))
            }
            Err(status) => Err(Err(of_message(number, translate_status(status)))),
        }
    }

    async fn start(&mut self, number: u64, question: Q) -> Result<(), ServiceError> {
        let StreamRequest { model, matrix, answer, task } = question.question()?;
        let Opened { task, bulk, columns, notes_sent, .. } = match &mut self.opened {
            Some(first) => {
                let another = match (model, task) {
                    (Some(model), _) if model != first.model => Some("model"),
                    (_, Some(task)) if task != first.task => Some(task.field()),
                    _ => None,
                };
                if let Some(field) = another {
                    let message = "differs from the first message: open another stream";
                    return Err(ServiceError::invalid(field, message));
                }
                first
            }
            opened @ None => {
                let (name, selector) = convert::model_ref(model.clone())?;
                self.context.asks(&name, 0);
                let allowed = AllowedModel::check(&self.caller, name)?;
                let task = task.unwrap_or(Q::TASK);
                let bulk = self.service.bulk(&allowed, &selector, task, self.deadline).await?;
                let model = model.unwrap_or_default();
                opened.insert(Opened { model, task, bulk, columns: None, notes_sent: Vec::new() })
            }
        };
        let field = task.operation().field();
        if task.operation().decodes() {
            let matrix = convert::matrix(field, matrix)?;
            return self.enter(number, Read { matrix, answer, notes: Vec::new() });
        }
        let rows = convert::named_rows(field, matrix)?;
        let is_named = rows.is_named();
        let Aligned { rows: matrix, columns: how } = bulk.align(rows, columns.as_ref()).await?;
        let mut notes = Vec::new();
        if is_named {
            *columns = how.map().cloned();
            if how.notes != *notes_sent {
                notes_sent.clone_from(&how.notes);
                notes = how.notes;
            }
        }
        self.enter(number, Read { matrix, answer, notes })
    }

    /// Submits a message if the caller's limits allow it. If they do not, and other messages of this stream are in
    /// flight, the message waits for one of these.
    fn enter(&mut self, number: u64, read: Read) -> Result<(), ServiceError> {
        let Some(Opened { bulk, .. }) = &self.opened else { return Ok(()) };
        let held = match self.caller.hold(read.matrix.rows() as u64, read.matrix.bytes() as u64) {
            Ok(held) => held,
            Err(Refusal::TooMuch { .. }) if !self.under_way.is_empty() => {
                self.waiting = Some(read);
                return Ok(());
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let Read { matrix, answer, notes } = read;
        let bytes = bulk.bytes(&matrix, answer);
        self.context.add_rows(matrix.rows());
        let (bulk, deadline, ids) = (bulk.clone(), self.deadline, Arc::clone(self.context.ids()));
        let task = tokio::spawn(within(Some(ids), async move { bulk.compute(matrix, answer, deadline).await }));
        self.under_way.push_back(UnderWay { number, bytes, task, notes, _held: held });
        self.bytes_ahead += bytes;
        Ok(())
    }
}

/// Result of the oldest message in flight; never resolves if there is none.
async fn first(under_way: &mut VecDeque<UnderWay>) -> Result<Served, ServiceError> {
    match under_way.front_mut() {
        Some(first) => (&mut first.task).await.unwrap_or_else(|lost| Err(ServiceError::Internal(lost.to_string()))),
        None => pending().await,
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

async fn stopped(stopping: &mut watch::Receiver<Readiness>) {
    // An error means that the service is gone, which is also a stop.
    let _ = stopping.wait_for(|now| *now >= Readiness::Stopping).await;
}

/// Adds the message number to a status about a message, but not to one about the connection.
fn of_message(number: u64, status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted => {
            Status::new(status.code(), format!("message {number}: {}", status.message()))
        }
        _ => status,
    }
}
