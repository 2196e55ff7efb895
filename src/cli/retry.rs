//! What an upload does when it fails: retry over a new connection, or cancel its job.

use std::time::Duration;

use tonic::{Code, Status};

use super::CliError;
use super::client::Context;
use crate::rpc::pb;

/// Maximum retries of a broken connection, and the delay before the first retry, which then doubles.
pub(super) const RETRIES_MAX: u32 = 8;
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Cancels a job, so that its rows do not stay on the server; returns the outcome as text.
pub(super) async fn cancel(context: &Context, id: &str) -> String {
    let request = pb::CancelJobRequest { id: id.to_owned() };
    let canceled = match context.jobs().await {
        Ok(mut jobs) => jobs.cancel_job(request).await.map(|_| ()).map_err(CliError::from),
        Err(error) => Err(error),
    };
    match canceled {
        Ok(()) => format!("job {id} is canceled, and the server has removed its rows"),
        Err(error) => format!("job {id} is still on the server ({error}); to remove it: halfhitch jobs cancel {id}"),
    }
}

/// Whether the error comes from the rows or the command, so that a retry cannot succeed.
pub(super) fn lies_with_the_rows(error: &CliError) -> bool {
    match error {
        CliError::File(_) | CliError::Usage(_) | CliError::Failed(_) => true,
        CliError::Status(status) => matches!(status.code(), Code::InvalidArgument | Code::OutOfRange),
        CliError::Config(_) | CliError::NoServer { .. } | CliError::Interrupted(_) => false,
    }
}

/// Whether a retry over a new connection may succeed.
pub(super) fn is_broken_connection(status: &Status) -> bool {
    let transport = std::error::Error::source(status).is_some();
    status.code() == Code::Unavailable
        || (transport && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled))
}
