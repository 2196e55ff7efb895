//! `halfhitch train`: trains a model on rows, and shows the result.

use serde_json::json;

use super::client::Context;
use super::data::ColumnsOfFiles;
use super::train_args::TrainArgs;
use super::uploading::{OnInterrupt, train};
use super::{CliError, follow, report};
use crate::client::model_ref;
use crate::client::upload::Ended;
use crate::rpc::pb;

pub(super) async fn run(context: &Context, mut args: TrainArgs) -> Result<(), CliError> {
    if let Some(from) = args.from.as_deref().filter(|_| args.widths.is_empty()) {
        args.widths = widths_of(context, from).await?;
    }
    if args.follow {
        if args.publish_rows.is_none() && args.publish_interval.is_none() {
            return Err(CliError::Usage("--follow needs --publish-rows, --publish-interval, or both".to_owned()));
        }
        let incremental = pb::Incremental {
            publish_rows: args.publish_rows.unwrap_or(0),
            publish_interval: args.publish_interval.and_then(|interval| interval.try_into().ok()),
        };
        if args.widths.is_empty() && args.files.iter().all(|path| path == "-") {
            return Err(CliError::Usage("--follow on standard input needs --widths".to_owned()));
        }
        let (files, options) = (args.files.clone(), args.read.options());
        let columns = ColumnsOfFiles::new(args.read.by_position(), true);
        let (spec, ..) = args.request()?;
        return follow::run(
            context,
            pb::TrainSpec { incremental: Some(incremental), ..spec },
            files,
            (options, columns),
        )
        .await;
    }
    let on_interrupt = if args.idempotency_key.is_some() { OnInterrupt::Keep } else { OnInterrupt::Cancel };
    let (spec, source, detach) = args.request()?;
    let code_length = |widths: &[u32]| widths.last().copied().unwrap_or_default() as usize;
    match train(context, &spec, &source, detach, on_interrupt).await? {
        Ended::Detached(id) => {
            if context.json {
                out_line!("{}", json!({ "job_id": id }));
            } else {
                out_line!("job {id} continues: halfhitch jobs watch {id}");
            }
        }
        Ended::Trained(result) if result.version == 0 => {
            if context.json {
                out_line!("{}", kept_back_json(&result));
                return Ok(());
            }
            out_line!("{}: no version was published: {}", result.model_name, result.kept_back);
            print_report(&result, code_length(&spec.widths), &spec.feature_names);
        }
        Ended::Trained(result) => {
            let reference = pb::ModelRef {
                name: result.model_name.clone(),
                selector: Some(pb::model_ref::Selector::Version(result.version)),
            };
            let request = pb::GetModelVersionRequest { model: Some(reference) };
            let version = context.models().await?.get_model_version(request).await?.into_inner().version;
            if context.json {
                out_line!(
                    "{}",
                    json!({
                        "model_name": result.model_name,
                        "version": result.version,
                        "model": version.as_ref().map(report::version_json),
                    })
                );
                return Ok(());
            }
            out_line!("{} version {} is published", result.model_name, result.version);
            let trained = version.as_ref().and_then(|version| version.spec.clone()).unwrap_or_default();
            print_report(&result, code_length(&trained.widths), &trained.feature_names);
            if let Some(version) = version {
                out_line!(
                    "  size: {} of tensors, {} untied ({:.1} %), file {}",
                    report::bytes(version.tensor_bytes),
                    report::bytes(version.untied_tensor_bytes),
                    100.0 * version.tensor_bytes as f64 / version.untied_tensor_bytes as f64,
                    report::bytes(version.file_bytes)
                );
            }
            out_line!("next: halfhitch encode {}@{} FILE -o codes.npy", result.model_name, result.version);
        }
    }
    Ok(())
}

fn print_report(result: &pb::TrainResult, code_length: usize, names: &[String]) {
    for line in result.training_report.iter().flat_map(|one| report::report_lines(one, code_length, names)) {
        out_line!("  {line}");
    }
}

fn kept_back_json(result: &pb::TrainResult) -> serde_json::Value {
    json!({
        "model_name": result.model_name,
        "version": serde_json::Value::Null,
        "kept_back": result.kept_back,
        "training_report": result.training_report.as_ref().map(report::report_json),
    })
}

/// The layer widths of a version. The first is the number of columns, which determines the chunk size.
async fn widths_of(context: &Context, model: &str) -> Result<Vec<u32>, CliError> {
    let request = pb::GetModelVersionRequest { model: Some(model_ref(model)?) };
    let version = context.models().await?.get_model_version(request).await?.into_inner().version;
    Ok(version.and_then(|version| version.spec).unwrap_or_default().widths)
}
