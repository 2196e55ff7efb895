//! `halfhitch inspect`: shows the matrices of a model and compares its decoders.

use serde_json::json;

use super::client::{Context, named_matrix, print_notes};
use super::reading::{self, ReadArgs};
use super::{CliError, draw, report};
use crate::client::model_ref;
use crate::rpc::pb;

/// Width of the sparkline of singular values, in characters.
const SPARKLINE_WIDTH: usize = 40;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch inspect digits             how orthonormal each matrix is\n  halfhitch inspect digits rows.npy    and which decoder reconstructs these rows best"
)]
pub(super) struct InspectArgs {
    /// Model: NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows to measure on, up to the first 8 MiB: .csv, .npy, .npz, .parquet, .jsonl and others (docs/guide.md); - for
    /// standard input
    file: Option<String>,
    /// Measure on the held-out rows stored with the version by `halfhitch train --validation-sample ROWS`
    #[arg(long, conflicts_with = "file")]
    validation_sample: bool,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn run(context: &Context, args: InspectArgs) -> Result<(), CliError> {
    let model = Some(model_ref(&args.model)?);
    let rows = args.file.as_deref().map(|file| reading::first_rows(file, &args.read, None)).transpose()?;
    let rows = rows.map(|rows| named_matrix(rows.columns, &rows.values, &rows.names));
    let mut client = context.models().await?;
    let seen = client
        .inspect_model(pb::InspectModelRequest { model, rows, validation_sample: args.validation_sample })
        .await?
        .into_inner();
    print_notes(context, &seen.notes);
    if context.json {
        out_line!("{}", in_json(&args.model, &seen));
    } else {
        lines(&args.model, &seen).iter().for_each(|line| out_line!("{line}"));
    }
    Ok(())
}

/// The text output.
fn lines(name: &str, seen: &pb::InspectModelResponse) -> Vec<String> {
    let mut lines = vec![
        format!("{name} version {}", seen.version),
        format!(
            "{:>5}  {:<12} {:>10} {:>10} {:>11} {:>11} {:>5}  singular values, largest first",
            "layer", "matrix", "defect/row", "largest", "condition", "rank", "dead"
        ),
    ];
    for (l, layer) in seen.layers.iter().enumerate() {
        let values = &layer.singular_values;
        let (greatest, smallest) =
            (values.first().copied().unwrap_or_default(), values.last().copied().unwrap_or_default());
        lines.push(format!(
            "{:>5}  {:<12} {:>10.2e} {:>10.2e} {:>11} {:>11} {:>5}  {} {greatest:.3} to {smallest:.3}",
            l + 1,
            format!("{}x{}", layer.outputs, layer.inputs),
            layer.defect_per_row,
            layer.defect_largest,
            if layer.condition < 1e9 { format!("{:.2}", layer.condition) } else { "infinite".to_owned() },
            format!("{} of {}", layer.rank, values.len()),
            layer.dead_units.len(),
            draw::sparkline(values, SPARKLINE_WIDTH),
        ));
    }
    lines.push(
        "  defect: distance of W W^T from the identity (0: orthonormal rows, and the transpose is the pseudo-inverse)"
            .into(),
    );
    lines.push(
        "  largest: largest absolute entry of W W^T - I (of W^T W - I where W expands); dead: units with weights near 0, or \
         the same output for all rows"
            .into(),
    );
    if let Some(found) = &seen.comparison {
        let of_pca = |error: f64| format!("{error:.6} per row, {:.4} of PCA's", error / found.pca_squared_error);
        let explained = |error: f64| format!("{:.2} % of the variance", 100.0 * (1.0 - error / found.spread));
        lines.push(format!("reconstruction error of {} rows:", found.rows));
        let transpose = found.transpose_squared_error;
        lines.push(format!("  transpose       {} ({})", of_pca(transpose), explained(transpose)));
        lines.push(match found.pseudo_inverse_squared_error {
            Some(error) => format!("  pseudo-inverse  {} ({})", of_pca(error), explained(error)),
            None => format!("  pseudo-inverse  none: {}", found.no_pseudo_inverse),
        });
        let pca = found.pca_squared_error;
        lines.push(format!("  PCA             {pca:.6} per row ({}), fitted on these rows", explained(pca)));
    } else {
        lines.push("name a file of rows to compare the decoders on them".into());
    }
    lines.push(format!(
        "size: {} of tensors, {} untied",
        report::bytes(seen.tensor_bytes),
        report::bytes(seen.untied_tensor_bytes)
    ));
    lines
}

/// The JSON output. Infinite values become null.
fn in_json(name: &str, seen: &pb::InspectModelResponse) -> serde_json::Value {
    json!({
        "model": name,
        "version": seen.version,
        "layers": seen.layers.iter().map(|layer| json!({
            "outputs": layer.outputs,
            "inputs": layer.inputs,
            "defect": layer.defect,
            "defect_per_row": layer.defect_per_row,
            "defect_largest": layer.defect_largest,
            "singular_values": layer.singular_values,
            "condition": layer.condition,
            "rank": layer.rank,
            "row_norms": layer.row_norms,
            "dead_units": layer.dead_units,
        })).collect::<Vec<_>>(),
        "comparison": seen.comparison.as_ref().map(|found| json!({
            "rows": found.rows,
            "transpose_squared_error": found.transpose_squared_error,
            "pseudo_inverse_squared_error": found.pseudo_inverse_squared_error,
            "pca_squared_error": found.pca_squared_error,
            "spread": found.spread,
            "no_pseudo_inverse": found.no_pseudo_inverse,
        })),
        "tensor_bytes": seen.tensor_bytes,
        "untied_tensor_bytes": seen.untied_tensor_bytes,
    })
}
