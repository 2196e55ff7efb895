//! `EncodeStream` and `DecodeStream`: an answer per message, in order, no further ahead than the reader lets.

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
    Aligned, AnswerFormat, BatchError, Bulk, BulkTask, ColumnMap, Decoder, Matrix, Readiness, Served, Service,
    ServiceError, field,
};
use crate::telemetry::call::within;

/// Messages that are read before the first of them is answered: enough for a batch to fill while another is computed.
const MESSAGES_AHEAD_MAX: usize = 8;
/// Bytes of such messages and their answers, beyond which no further one is read.
const BYTES_AHEAD_MAX: usize = 4 << 20;

/// A message of either stream.
pub(super) struct StreamRequest {
    model: Option<pb::ModelRef>,
    matrix: Option<pb::Matrix>,
    answer: AnswerFormat,
    /// If it says more than the stream's name does.
    task: Option<BulkTask>,
}

/// A message of one of the streams.
pub(super) trait Message: Send + 'static {
    /// What a stream is for whose first message does not say.
    const TASK: BulkTask;

    /// What it asks.
    ///
    /// # Errors
    /// If it names something that there is not.
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

/// The answers to `requests`.
///
/// Polled by the transport alone, and only while the reader takes answers away: a reader that stops stops the reading.
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

/// One stream, from its first message to its last answer.
struct Exchange<Q> {
    service: Service,
    context: RequestContext,
    deadline: Option<Instant>,
    caller: CallerOf,
    requests: Streaming<Q>,
    stopping: watch::Receiver<Readiness>,
    /// What the first message named.
    opened: Option<Opened>,
    messages_read: u64,
    /// Why no further message is read: there is none, or the status that the stream ends with.
    end: Option<Result<(), Status>>,
    /// Read and not yet answered, in order.
    under_way: VecDeque<UnderWay>,
    bytes_ahead: usize,
    /// Read, and more than the caller may have under way: until an answer is given.
    waiting: Option<Read>,
}

/// A message whose rows are in order.
struct Read {
    matrix: Matrix,
    answer: AnswerFormat,
    /// What is to be told of its columns.
    notes: Vec<String>,
}

/// What holds for all messages of a stream.
struct Opened {
    model: pb::ModelRef,
    task: BulkTask,
    /// The version that was chosen.
    bulk: Bulk,
    /// How the columns of the newest message whose columns had names were matched, if something had to be moved.
    columns: Option<Arc<ColumnMap>>,
    /// What was told of columns last.
    told: Vec<String>,
}

/// A message that is being served.
///
/// Its task goes on while the reader pauses, so that a reader who never comes back keeps no place in the queue that
/// others wait for. It ends with its owner.
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
    /// The next answer; `None` after the last.
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
                // Reading comes before answering: what is read can be computed meanwhile.
                biased;
                () = passed(self.deadline) => return Err(ServiceError::from(BatchError::DeadlineExceeded).into()),
                () = stopped(&mut self.stopping), if reads => {
                    let error = ServiceError::ShuttingDown("what was answered stands, send the rest again");
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

    /// Starts on a message, or says why it is the end.
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
        let Opened { task, bulk, columns, told, .. } = match &mut self.opened {
            Some(first) => {
                let another = match (model, task) {
                    (Some(model), _) if model != first.model => Some("model"),
                    (_, Some(task)) if task != first.task => Some(task.field()),
                    _ => None,
                };
                if let Some(field) = another {
                    let message = "is another one than in the first message: open another stream";
                    return Err(ServiceError::invalid(field, message));
                }
                first
            }
            opened @ None => {
                let (name, selector) = convert::model_ref(model.clone())?;
                self.context.asks(&name, 0);
                self.caller.check_model(name.as_str())?;
                let task = task.unwrap_or(Q::TASK);
                let bulk = self.service.bulk(&name, &selector, task, self.deadline).await?;
                let model = model.unwrap_or_default();
                opened.insert(Opened { model, task, bulk, columns: None, told: Vec::new() })
            }
        };
        let field = field(task.operation());
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
            if how.notes != *told {
                told.clone_from(&how.notes);
                notes = how.notes;
            }
        }
        self.enter(number, Read { matrix, answer, notes })
    }

    /// Begins with a message, if the caller may have that much under way; if it has other messages of this stream under way,
    /// later.
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

/// What came of the first of them; never, if there is none.
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
    // An error means that the service is gone: that is a stop, too.
    let _ = stopping.wait_for(|now| *now >= Readiness::Stopping).await;
}

/// Says which message could not be read, if it was the message and not the connection.
fn of_message(number: u64, status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted => {
            Status::new(status.code(), format!("message {number}: {}", status.message()))
        }
        _ => status,
    }
}
