//! `halfhitch health`: asks the server whether it is ready.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::CliError;
use super::client::Context;

#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// Service or model to check, for example halfhitch.v1.AutoencoderService or models/NAME; empty checks the whole
    /// server
    #[arg(long, default_value = "")]
    service: String,
}

pub(super) async fn run(context: &Context, args: HealthArgs) -> Result<(), CliError> {
    let mut client = HealthClient::new(context.channel().await?);
    let answer = client.check(HealthCheckRequest { service: args.service }).await?.into_inner();
    let status = answer.status();
    if context.json {
        out_line!("{}", serde_json::json!({ "status": status.as_str_name() }));
    } else {
        out_line!("{}", status.as_str_name());
    }
    if status == ServingStatus::Serving {
        Ok(())
    } else {
        Err(CliError::Failed(format!("the server at {} is not ready", context.url())))
    }
}
