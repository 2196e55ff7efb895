//! Uploads rows, reconnects and resumes after a broken connection, and waits for the result.

use super::CliError;
use super::cancel::{cancel, lies_with_the_rows};
use super::client::Context;
use super::data::Source;
use super::live::Display;
use crate::client::upload::{Ended, RETRIES_MAX, RETRY_PAUSE, Sending, attempt, is_broken_connection};
use crate::rpc::pb;

/// What Ctrl-C does during the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnInterrupt {
    /// Cancels the job.
    Cancel,
    /// Keeps the uploaded rows: the same command resumes after them.
    Keep,
}

/// Uploads the rows and waits for the result. Reconnects after a broken connection and resumes the upload.
pub(super) async fn train(
    context: &Context,
    spec: &pb::TrainSpec,
    source: &Source,
    detach: bool,
    on_interrupt: OnInterrupt,
) -> Result<Ended, CliError> {
    let mut display = Display::new(context.json);
    let mut sending = Sending::default();
    let mut retries = 0;
    loop {
        let attempted = tokio::select! {
            attempted = async {
                attempt(context.autoencoder().await?, spec, source, detach, &mut display, &mut sending).await
            } => Some(attempted),
            // Reading standard input blocks this thread, so this handler cannot run then. The signal ends the process,
            // as it does by default.
            interrupted = tokio::signal::ctrl_c(), if source.can_be_read_again() => interrupted.err().map(|error| {
                Err(CliError::Failed(format!("cannot receive signals: {error}")))
            }),
        };
        let error = match attempted {
            Some(Ok(ended)) => {
                display.finish();
                return Ok(ended);
            }
            Some(Err(error)) => context.clarified(error).await,
            None => {
                display.finish();
                return Err(CliError::Interrupted(interrupted(context, spec, &sending, on_interrupt).await));
            }
        };
        if sending.uploads && lies_with_the_rows(&error) {
            sending.uploads = false;
            let outcome = cancel(context, &sending.id).await;
            display.say(&outcome);
        }
        let broken = match &error {
            CliError::Status(status) => is_broken_connection(status),
            CliError::NoServer { .. } => retries > 0 || !sending.id.is_empty(),
            _ => false,
        };
        if !broken || retries == RETRIES_MAX || !source.can_be_read_again() {
            display.finish();
            if broken {
                note_line!("to resume later, add: --idempotency-key {}", spec.idempotency_key);
            }
            return Err(error);
        }
        let pause = RETRY_PAUSE * 2u32.pow(retries);
        retries += 1;
        display.say(&format!("the connection broke, retrying in {pause:?} ({retries} of {RETRIES_MAX})"));
        tokio::time::sleep(pause).await;
    }
}

/// What happens to the job after an interrupt, as text.
async fn interrupted(context: &Context, spec: &pb::TrainSpec, sending: &Sending, on_interrupt: OnInterrupt) -> String {
    if sending.uploads && on_interrupt == OnInterrupt::Cancel {
        return cancel(context, &sending.id).await;
    }
    let (id, key) = (&sending.id, &spec.idempotency_key);
    if id.is_empty() {
        return "no job was created".to_owned();
    }
    if sending.uploads {
        return format!(
            "the server keeps the uploaded rows for a while; to resume, repeat the command (idempotency key {key}); \
             to remove them: halfhitch jobs cancel {id}"
        );
    }
    format!("job {id} continues on the server: halfhitch jobs watch {id}, or halfhitch jobs cancel {id}")
}
