//! `halfhitch models`: manages published models.

use std::io::Write;

use clap::Subcommand;
use serde_json::json;

use super::client::{Context, named_matrix, print_notes};
use super::reading::{self, ReadArgs};
use super::{CliError, report, writing};
use crate::client::{CHUNK_BYTES, model_ref};
use crate::files::FileError;
use crate::rpc::pb;
use crate::rpc::pb::import_model_version_request::Message as Import;

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// List all models, or all versions of one model
    List {
        /// Model whose versions to list
        name: Option<String>,
    },
    /// Show one version: shape, sizes, training report
    Show {
        /// Model: NAME, NAME@VERSION or NAME@ALIAS
        model: String,
    },
    /// Delete a version permanently
    Delete {
        /// Version to delete: NAME@VERSION
        model: String,
    },
    /// Publish a safetensors file as a new version
    Import {
        /// Name of the model that gets the new version
        name: String,
        /// safetensors file to import
        file: String,
    },
    /// Publish a version whose codes can be truncated: its codes are centered and rotated to their principal axes, and
    /// it reconstructs the same rows
    Canonicalize {
        /// Model: NAME, NAME@VERSION or NAME@ALIAS
        model: String,
    },
    /// Measure how Gram-Schmidt on the code layer changes the reconstruction error on some rows; with --publish,
    /// publish that version
    Orthonormalize(Box<OrthonormalizeArgs>),
    /// Write a version to a safetensors file
    Export {
        /// Model: NAME, NAME@VERSION or NAME@ALIAS
        model: String,
        /// Output file; - for standard output
        #[arg(short, long, value_name = "FILE")]
        output: String,
    },
    /// Set and delete aliases of versions
    #[command(subcommand)]
    Alias(AliasCommand),
}

#[derive(Debug, clap::Args)]
pub(super) struct OrthonormalizeArgs {
    /// Model: NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows to measure on, up to the first 8 MiB; - for standard input
    file: String,
    /// Publish the orthonormal version
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum AliasCommand {
    /// Point an alias at a version
    Set {
        /// Version: NAME@VERSION
        model: String,
        /// Name of the alias
        alias: String,
        /// Change the alias only if it points at this version now (0: only if it does not exist)
        #[arg(long, value_name = "VERSION")]
        expected: Option<u64>,
    },
    /// Remove an alias; the version stays
    Delete {
        /// Name of the model
        name: String,
        /// Name of the alias
        alias: String,
        /// Delete the alias only if it points at this version now
        #[arg(long, value_name = "VERSION")]
        expected: Option<u64>,
    },
}

pub(super) async fn run(context: &Context, command: ModelsCommand) -> Result<(), CliError> {
    match command {
        ModelsCommand::List { name: None } => list(context).await,
        ModelsCommand::List { name: Some(name) } => versions(context, name).await,
        ModelsCommand::Show { model } => show(context, &model).await,
        ModelsCommand::Delete { model } => delete(context, &model).await,
        ModelsCommand::Import { name, file } => import(context, name, &file).await,
        ModelsCommand::Canonicalize { model } => canonicalize(context, &model).await,
        ModelsCommand::Orthonormalize(args) => orthonormalize(context, *args).await,
        ModelsCommand::Export { model, output } => export(context, &model, &output).await,
        ModelsCommand::Alias(command) => alias(context, command).await,
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let mut client = context.models().await?;
    let mut page_token = String::new();
    let mut any = false;
    loop {
        let page = client.list_models(pb::ListModelsRequest { page_size: 0, page_token }).await?.into_inner();
        for model in page.models {
            let aliases: Vec<String> =
                model.aliases.iter().map(|alias| format!("{}={}", alias.alias, alias.version)).collect();
            if context.json {
                let aliases: serde_json::Map<_, _> =
                    model.aliases.iter().map(|alias| (alias.alias.clone(), json!(alias.version))).collect();
                out_line!(
                    "{}",
                    json!({
                        "name": model.name,
                        "latest_version": model.latest_version,
                        "version_count": model.version_count,
                        "aliases": aliases,
                    })
                );
            } else {
                if !any {
                    out_line!("{:<32} {:>8} {:>8}  aliases", "name", "latest", "versions");
                }
                out_line!(
                    "{:<32} {:>8} {:>8}  {}",
                    model.name,
                    model.latest_version,
                    model.version_count,
                    aliases.join(" ")
                );
            }
            any = true;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !any && !context.json {
        out_line!("no models yet; to train one: halfhitch train NAME FILE");
    }
    Ok(())
}

async fn versions(context: &Context, name: String) -> Result<(), CliError> {
    let mut client = context.models().await?;
    let mut page_token = String::new();
    let mut any = false;
    loop {
        let request = pb::ListModelVersionsRequest { name: name.clone(), page_size: 0, page_token };
        let page = client.list_model_versions(request).await?.into_inner();
        for version in page.versions {
            if context.json {
                out_line!("{}", report::version_json(&version));
                continue;
            }
            if !any {
                out_line!("{:>8}  {:<28} {:>12}  {:<24} aliases", "version", "widths", "file", "published");
            }
            any = true;
            out_line!(
                "{:>8}  {:<28} {:>12}  {:<24} {}",
                version.version,
                widths(version.spec.as_ref()),
                report::bytes(version.file_bytes),
                version.create_time.map(|time| time.to_string()).unwrap_or_default(),
                version.aliases.join(" ")
            );
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

pub(super) fn widths(spec: Option<&pb::ModelSpec>) -> String {
    let widths = spec.map(|spec| spec.widths.as_slice()).unwrap_or_default();
    widths.iter().map(ToString::to_string).collect::<Vec<_>>().join("-")
}

async fn show(context: &Context, model: &str) -> Result<(), CliError> {
    let request = pb::GetModelVersionRequest { model: Some(model_ref(model)?) };
    let version = context.models().await?.get_model_version(request).await?.into_inner().version.unwrap_or_default();
    if context.json {
        out_line!("{}", report::version_json(&version));
        return Ok(());
    }
    let names = |numbers: &[i32]| -> String {
        let names: Vec<String> = numbers
            .iter()
            .map(|number| pb::Activation::try_from(*number).map_or("?", |one| one.as_str_name()))
            .map(|name| report::short(name, "ACTIVATION_"))
            .collect();
        names.join(", ")
    };
    out_line!("{} version {}", version.name, version.version);
    if let Some(spec) = &version.spec {
        out_line!("  widths: {}", widths(Some(spec)));
        out_line!(
            "  encoder: {}; decoder, in the order of the encoder layers: {}",
            names(&spec.encoder_activations),
            names(&spec.decoder_activations)
        );
        out_line!(
            "  loss: {}, normalization: {}{}{}",
            report::short(spec.loss().as_str_name(), "LOSS_"),
            report::short(spec.normalization().as_str_name(), "NORMALIZATION_"),
            if spec.gain { ", with gain" } else { "" },
            if spec.ordered_code { ", ordered code" } else { "" }
        );
    }
    out_line!(
        "  size: {} of tensors, {} untied; file {}; sha256 {}",
        report::bytes(version.tensor_bytes),
        report::bytes(version.untied_tensor_bytes),
        report::bytes(version.file_bytes),
        version.sha256
    );
    out_line!(
        "  published: {}{}",
        version.create_time.map(|time| time.to_string()).unwrap_or_default(),
        if version.aliases.is_empty() { String::new() } else { format!("; aliases: {}", version.aliases.join(" ")) }
    );
    let code_length = version.spec.as_ref().and_then(|spec| spec.widths.last().copied()).unwrap_or_default();
    let names = version.spec.as_ref().map_or(&[][..], |spec| &spec.feature_names);
    let lines = |one| report::report_lines(one, code_length as usize, names);
    for line in version.training_report.iter().flat_map(lines) {
        out_line!("  {line}");
    }
    Ok(())
}

/// Parses NAME@VERSION. Commands that change something require an explicit version number.
fn exact(model: &str) -> Result<(String, u64), CliError> {
    match model_ref(model)? {
        pb::ModelRef { name, selector: Some(pb::model_ref::Selector::Version(version)) } => Ok((name, version)),
        _ => Err(CliError::Usage(format!("{model:?}: expected NAME@VERSION with a version number"))),
    }
}

async fn delete(context: &Context, model: &str) -> Result<(), CliError> {
    let (name, version) = exact(model)?;
    let request = pb::DeleteModelVersionRequest { name: name.clone(), version };
    context.models().await?.delete_model_version(request).await?;
    if context.json {
        out_line!("{}", json!({ "deleted": { "name": name, "version": version } }));
    } else {
        out_line!("{name} version {version} is deleted; its number is never used again");
    }
    Ok(())
}

async fn import(context: &Context, name: String, path: &str) -> Result<(), CliError> {
    let file = std::fs::read(path).map_err(|error| CliError::Failed(format!("{path}: {error}")))?;
    let target = Import::Target(pb::ImportTarget { name });
    let file = bytes::Bytes::from(file);
    let chunks = (0..file.len())
        .step_by(CHUNK_BYTES)
        .map(move |at| Import::Chunk(file.slice(at..file.len().min(at + CHUNK_BYTES))));
    let messages =
        std::iter::once(target).chain(chunks).map(|message| pb::ImportModelVersionRequest { message: Some(message) });
    let answer = context.models().await?.import_model_version(tokio_stream::iter(messages)).await?.into_inner();
    let version = answer.version.unwrap_or_default();
    if context.json {
        out_line!("{}", report::version_json(&version));
    } else {
        out_line!("{} version {} is published ({})", version.name, version.version, widths(version.spec.as_ref()));
    }
    Ok(())
}

async fn canonicalize(context: &Context, model: &str) -> Result<(), CliError> {
    let request = pb::CanonicalizeModelVersionRequest { model: Some(model_ref(model)?) };
    let answer = context.models().await?.canonicalize_model_version(request).await?.into_inner();
    let version = answer.version.unwrap_or_default();
    if context.json {
        let variances = answer.code_variances;
        out_line!("{}", json!({ "name": version.name, "version": version.version, "code_variances": variances }));
        return Ok(());
    }
    out_line!(
        "{} version {} is published: it reconstructs as {model} does, and its codes can be truncated",
        version.name,
        version.version
    );
    let whole: f64 = answer.code_variances.iter().sum();
    let mut sum = 0.0;
    out_line!("{:>11} {:>12} {:>22}", "code length", "variance", "of the code's variance");
    for (i, variance) in answer.code_variances.iter().enumerate() {
        sum += variance;
        out_line!("{:>11} {variance:>12.5} {:>20.2} %", i + 1, 100.0 * sum / whole);
    }
    Ok(())
}

async fn orthonormalize(context: &Context, args: OrthonormalizeArgs) -> Result<(), CliError> {
    let first = reading::first_rows(&args.file, &args.read, None)?;
    let request = pb::OrthonormalizeModelVersionRequest {
        model: Some(model_ref(&args.model)?),
        rows: Some(named_matrix(first.columns, &first.values, &first.names)),
        publish: args.publish,
    };
    let answer = context.models().await?.orthonormalize_model_version(request).await?.into_inner();
    print_notes(context, &answer.notes);
    let (before, after) = (answer.squared_error, answer.orthonormal_squared_error);
    let rows = first.values.len() / first.columns;
    if context.json {
        let published = answer.published.map(|version| version.version);
        out_line!(
            "{}",
            json!({
                "version": answer.version,
                "rows": rows,
                "squared_error": before,
                "orthonormal_squared_error": after,
                "published": published,
            })
        );
        return Ok(());
    }
    out_line!("reconstruction error of {rows} rows: {before:.6} now, {after:.6} with an orthonormal code layer");
    match answer.published {
        Some(version) => out_line!("{} version {} is published: its codes differ", version.name, version.version),
        None => out_line!("nothing was published; add --publish to publish the orthonormal version"),
    }
    Ok(())
}

async fn export(context: &Context, model: &str, output: &str) -> Result<(), CliError> {
    let request = pb::ExportModelVersionRequest { model: Some(model_ref(model)?) };
    let mut file = writing::output("--output", output)?;
    let path = file.path().to_owned();
    let mut chunks = context.models().await?.export_model_version(request).await?.into_inner();
    let (mut written, mut expected, mut version) = (0u64, None, 0);
    while let Some(message) = chunks.message().await? {
        file.write_all(&message.chunk).map_err(|source| FileError::Io { path: path.clone(), source })?;
        written += message.chunk.len() as u64;
        (expected, version) = (Some(message.file_bytes), message.version);
    }
    if expected != Some(written) {
        return Err(CliError::Failed(format!(
            "the server sent {written} bytes, expected {}",
            expected.unwrap_or_default()
        )));
    }
    file.finish()?;
    if path == "-" {
        return Ok(());
    }
    if context.json {
        out_line!("{}", json!({ "model": model, "version": version, "file_bytes": written, "output": output }));
    } else {
        out_line!("{output}: version {version}, {}", report::bytes(written));
    }
    Ok(())
}

async fn alias(context: &Context, command: AliasCommand) -> Result<(), CliError> {
    let mut client = context.models().await?;
    match command {
        AliasCommand::Set { model, alias, expected } => {
            let (name, version) = exact(&model)?;
            let request =
                pb::SetAliasRequest { name: name.clone(), alias: alias.clone(), version, expected_version: expected };
            let before = client.set_alias(request).await?.into_inner().previous_version;
            if context.json {
                out_line!(
                    "{}",
                    json!({ "name": name, "alias": alias, "version": version, "previous_version": before })
                );
            } else {
                let moved = if before == 0 { String::new() } else { format!(" (before: {before})") };
                out_line!("{name}@{alias} is now version {version}{moved}");
            }
        }
        AliasCommand::Delete { name, alias, expected } => {
            let request =
                pb::DeleteAliasRequest { name: name.clone(), alias: alias.clone(), expected_version: expected };
            client.delete_alias(request).await?;
            if context.json {
                out_line!("{}", json!({ "deleted": { "name": name, "alias": alias } }));
            } else {
                out_line!("{name}@{alias} is deleted");
            }
        }
    }
    Ok(())
}
