//! What a command does with an upload that failed: cancel its job if a retry cannot succeed.

use tonic::Code;

use super::CliError;
use super::client::Context;
use crate::rpc::pb;

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
