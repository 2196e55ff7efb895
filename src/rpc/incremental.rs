//! A `Train` stream for incremental training: reads chunks, divides them into rounds, and sends the result of each
//! round.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

use super::auth::CallerOf;
use super::convert;
use super::pb;
use super::pb::train_request::Message as RequestMessage;
use super::pb::train_response::Message as ResponseMessage;
use super::stream::{Ending, ResponseSender};
use super::train_messages::{acknowledged, align, answer, next, out_of_order, result_of};
use crate::service::{
    AllowedTraining, Cadence, ChunkColumns, Features, IdempotencyKey, JobSnapshot, JobState, Matrix, Priority,
    RoundJob, RoundStream, RowRole, Service, ServiceError, StreamBegun, Taken,
};

/// Retry delay if there is no room for a chunk or another job.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A chunk that waits for room.
struct Waiting {
    number: u64,
    role: RowRole,
    rows: Matrix,
    note: Option<String>,
}

/// State of a stream.
struct Driver {
    service: Service,
    caller: CallerOf,
    features: Features,
    /// Column matching; set at the first chunk with column names.
    columns: Option<ChunkColumns>,
    responses: ResponseSender<pb::TrainResponse>,
    stream: RoundStream,
    /// Complete rounds whose results were not sent yet, oldest first. They train in this order.
    rounds: VecDeque<RoundJob>,
    /// Updates of the first of these rounds.
    news: Option<watch::Receiver<JobSnapshot>>,
    /// A chunk that waits for room.
    waiting: Option<Waiting>,
    /// Time of the next retry, if there was no room.
    not_before: Option<Instant>,
}

/// The next event of a stream.
#[expect(clippy::large_enum_variant, reason = "one at a time, and not kept")]
enum Happens {
    Came(Option<RequestMessage>),
    Due,
    Again,
    News,
}

/// Serves a stream of rounds, from the specification to the result of the last round.
pub(super) async fn train(
    service: Service,
    caller: CallerOf,
    (training, cadence, key, priority): (AllowedTraining, Cadence, Option<IdempotencyKey>, Priority),
    mut requests: Streaming<pb::TrainRequest>,
    responses: ResponseSender<pb::TrainResponse>,
) -> Result<(), Ending> {
    let features = training.features_of_rounds();
    let StreamBegun { stream, snapshot, last_chunk, rounds } =
        service.train_in_rounds(training, cadence, key, priority).await?;
    let job = convert::job(snapshot, convert::Report::Without);
    responses
        .send(answer(ResponseMessage::Accepted(pb::TrainAccepted { job: Some(job), last_chunk_number: last_chunk })))
        .await?;
    let mut driver = Driver {
        service,
        caller,
        features,
        columns: None,
        responses,
        stream,
        rounds: rounds.into(),
        news: None,
        waiting: None,
        not_before: None,
    };
    driver.watch_first();
    while driver.stream.is_open() || !driver.rounds.is_empty() {
        match driver.next(&mut requests).await? {
            Happens::Came(question) => driver.take(question).await?,
            Happens::Due => driver.cut().await?,
            Happens::Again => driver.try_again().await?,
            Happens::News => driver.send_news().await?,
        }
    }
    Ok(())
}

impl Driver {
    async fn next(&mut self, requests: &mut Streaming<pb::TrainRequest>) -> Result<Happens, Ending> {
        let has_room = self.stream.has_room(self.rounds.len());
        let is_stuck = self.not_before.is_some();
        // Without room, or with too many waiting rounds, nothing is read: flow control then makes the client wait,
        // too.
        let reads = self.stream.is_open() && has_room && !is_stuck && !self.stream.is_due();
        let due_at = self.stream.due_at().filter(|_| has_room && !is_stuck).map(Instant::from_std);
        let due_now = has_room && !is_stuck && self.stream.is_due();
        let (news, again) = (self.news.as_mut(), self.not_before);
        tokio::select! {
            error = self.stream.taken_over() => Err(error.into()),
            changed = news_of(news) => match changed {
                Ok(()) => Ok(Happens::News),
                Err(_) => Err(ServiceError::ShuttingDown("reconnect with the same idempotency key").into()),
            },
            () = until(again) => Ok(Happens::Again),
            () = until(due_at.or_else(|| due_now.then(Instant::now))) => Ok(Happens::Due),
            question = next(requests), if reads => Ok(Happens::Came(question?)),
        }
    }

    async fn take(&mut self, question: Option<RequestMessage>) -> Result<(), Ending> {
        match question {
            Some(RequestMessage::Chunk(chunk)) => {
                let role = convert::row_role(chunk.role)?;
                let rows = convert::named_rows("chunk.rows", chunk.rows)?;
                let (rows, note) = align(&self.service, &self.features, &mut self.columns, rows).await?;
                self.append(Waiting { number: chunk.number, role, rows, note }).await
            }
            Some(RequestMessage::Finish(finish)) => {
                let last = self.stream.finish(finish.chunk_count, finish.row_count).await?;
                self.follow(last.as_ref());
                Ok(())
            }
            other => Err(out_of_order("a `chunk` or `finish`", other.as_ref()).into()),
        }
    }

    async fn append(&mut self, Waiting { number, role, rows, mut note }: Waiting) -> Result<(), Ending> {
        let _held = self.caller.hold(rows.rows() as u64, rows.bytes() as u64)?;
        match self.stream.append(number, role, rows, !self.rounds.is_empty()).await? {
            Taken::Acknowledged(all) => {
                for one in all {
                    self.responses.send(acknowledged(one, note.take())).await?;
                }
            }
            Taken::Later(rows) => {
                self.waiting = Some(Waiting { number, role, rows, note });
                // If the round is full, cutting it comes next, without a delay.
                self.not_before = (!self.stream.is_due()).then(|| Instant::now() + RETRY_PAUSE);
            }
        }
        Ok(())
    }

    async fn cut(&mut self) -> Result<(), Ending> {
        match self.stream.cut().await? {
            Some(ended) => {
                self.follow(Some(&ended));
                return self.try_again().await;
            }
            None => self.not_before = Some(Instant::now() + RETRY_PAUSE),
        }
        Ok(())
    }

    async fn try_again(&mut self) -> Result<(), Ending> {
        self.not_before = None;
        match self.waiting.take() {
            Some(waiting) => self.append(waiting).await,
            None => Ok(()),
        }
    }

    /// Sends progress of the first round, or its result.
    async fn send_news(&mut self) -> Result<(), Ending> {
        let Some(news) = &mut self.news else { return Ok(()) };
        let snapshot = news.borrow_and_update().clone();
        if !snapshot.state.has_ended() {
            if snapshot.state == JobState::Running {
                let job = convert::job(snapshot, convert::Report::Without);
                self.responses.send(answer(ResponseMessage::Progress(job))).await?;
            }
            return Ok(());
        }
        self.rounds.pop_front();
        self.watch_first();
        self.responses.send(answer(ResponseMessage::Result(result_of(snapshot)))).await
    }

    fn follow(&mut self, round: Option<&JobSnapshot>) {
        self.rounds.extend(round.map(RoundJob::from));
        if self.news.is_none() {
            self.watch_first();
        }
    }

    fn watch_first(&mut self) {
        self.news = None;
        while let Some(round) = self.rounds.front() {
            if let Ok(mut news) = self.service.watch_round(round) {
                news.mark_changed();
                self.news = Some(news);
                return;
            }
            // The server keeps this job no longer: it ended long ago.
            self.rounds.pop_front();
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn news_of(news: Option<&mut watch::Receiver<JobSnapshot>>) -> Result<(), watch::error::RecvError> {
    match news {
        Some(news) => news.changed().await,
        None => pending().await,
    }
}
