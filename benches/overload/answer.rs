//! Classifies and counts the responses to callers.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use halfhitch::rpc::pb::EncodeRequest;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::load::Failure;
use crate::support::Report;

/// Maximum number of undocumented responses to print.
const KINDS_MAX: usize = 10;
/// Maximum number of causes of an error to print.
const CAUSES_MAX: usize = 5;

pub(crate) type Client = AutoencoderServiceClient<Channel>;

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Result,
    /// `RESOURCE_EXHAUSTED` with `RetryInfo`.
    Full {
        retry_after: Duration,
    },
    /// `DEADLINE_EXCEEDED`, from the server.
    Expired,
    /// The caller's own timer expired before a response came.
    GaveUp,
    /// The caller's transport closed its connection: h2 counts responses that arrive after their callers canceled.
    OwnFault,
    /// Any other response; the API documents none under load.
    Untyped(String),
}

/// Sends one request with a deadline.
pub(crate) async fn ask(client: &mut Client, question: EncodeRequest, timeout: Duration) -> Answer {
    let mut request = Request::new(question);
    request.set_timeout(timeout);
    match client.encode(request).await {
        Ok(_) => Answer::Result,
        Err(status) => of(&status),
    }
}

fn of(status: &Status) -> Answer {
    let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (status.code(), retry_after) {
        (Code::ResourceExhausted, Some(retry_after)) => Answer::Full { retry_after },
        (Code::DeadlineExceeded, _) => Answer::Expired,
        // Created by the client's transport: a status from the server carries headers.
        (Code::Cancelled, _) if status.metadata().is_empty() => Answer::GaveUp,
        (code, _) => {
            let text = format!("{code:?}: {}{}", status.message(), causes(status));
            // "detected" is an error of this side ("received": the server closed the connection). The other is for
            // calls in flight on a connection that was given up.
            let own = ["connection error detected", "dispatch task is gone"];
            if own.iter().any(|fault| text.contains(fault)) { Answer::OwnFault } else { Answer::Untyped(text) }
        }
    }
}

/// The causes from the client's transport, if it has any.
fn causes(status: &Status) -> String {
    let (mut text, mut next) = (String::new(), status.source());
    for _ in 0..CAUSES_MAX {
        let Some(cause) = next else { break };
        text.push_str(&format!(", because {cause}"));
        next = cause.source();
    }
    text
}

/// Number of responses of each kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) results: u64,
    pub(crate) full: u64,
    pub(crate) expired: u64,
    pub(crate) gave_up: u64,
    /// Callers that canceled before a response.
    pub(crate) departed: u64,
    pub(crate) own_faults: u64,
    /// Undocumented responses, with their counts.
    untyped: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, answer: &Answer) {
        match answer {
            Answer::Result => self.results += 1,
            Answer::Full { .. } => self.full += 1,
            Answer::Expired => self.expired += 1,
            Answer::GaveUp => self.gave_up += 1,
            Answer::OwnFault => self.own_faults += 1,
            Answer::Untyped(text) => *self.untyped.entry(text.clone()).or_default() += 1,
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.results += other.results;
        self.full += other.full;
        self.expired += other.expired;
        self.gave_up += other.gave_up;
        self.departed += other.departed;
        self.own_faults += other.own_faults;
        for (text, count) in other.untyped {
            *self.untyped.entry(text).or_default() += count;
        }
    }

    /// Prints one figure for each kind.
    pub(crate) fn print(&self, case: &str, report: &mut Report) {
        let counts = [
            (self.results, "responses OK"),
            (self.full, "responses RESOURCE_EXHAUSTED"),
            (self.expired, "responses DEADLINE_EXCEEDED"),
            (self.gave_up, "callers whose timer expired first"),
            (self.departed, "callers that canceled"),
            (self.own_faults, "callers whose transport failed"),
            (self.untyped.values().sum(), "undocumented responses"),
        ];
        for (count, unit) in counts {
            report.figure(case, count as f64, unit);
        }
    }

    /// Fails on an undocumented response, which voids the run.
    pub(crate) fn check(&self, case: &str) -> Result<(), Failure> {
        if self.untyped.is_empty() {
            return Ok(());
        }
        let kinds = self.untyped.iter().take(KINDS_MAX).map(|(text, count)| format!("\n  {count} x {text}"));
        Err(format!("void: {case}: responses that the API does not document:{}", kinds.collect::<String>()).into())
    }
}
