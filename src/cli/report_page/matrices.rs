//! The matrices: singular values, and how close their rows are to orthonormal.

use maud::{Markup, html};

use super::chart::{Chart, Level, Scale, Series};
use super::figures::number;
use crate::cli::CliError;
use crate::rpc::pb;

/// Condition numbers from here on are rounding errors and are shown as infinite.
const CONDITION_MAX: f64 = 1e9;

/// A table of all matrices, and a chart for each.
pub(super) fn matrices(inspection: &Result<pb::InspectModelResponse, String>) -> Result<Markup, CliError> {
    let seen = match inspection {
        Ok(seen) => seen,
        Err(reason) => {
            return Ok(html! {
                p.missing { "The server could not inspect the matrices: " (reason) "." }
            });
        }
    };
    let charts: Vec<Markup> =
        seen.layers.iter().enumerate().map(|(l, layer)| spectrum(l, layer)).collect::<Result<_, _>>()?;
    Ok(html! {
        (table(&seen.layers))
        div.small-multiples { @for chart in charts { (chart) } }
        p.note {
            "Singular values of each matrix, largest first. If all are 1 (dashed), the rows are "
            "orthonormal. A dead unit has weights of almost 0, or the same output for all rows."
        }
    })
}

fn table(layers: &[pb::LayerInspection]) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        @for name in ["matrix", "size", "defect", "defect per row", "largest entry", "condition", "rank", "dead units"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody {
                    @for (l, layer) in layers.iter().enumerate() {
                        tr {
                            th scope="row" { (l + 1) }
                            td { (layer.outputs) " × " (layer.inputs) }
                            td { (number(layer.defect)) }
                            td { (number(layer.defect_per_row)) }
                            td { (number(layer.defect_largest)) }
                            td { (condition(layer.condition)) }
                            td { (layer.rank) " of " (layer.singular_values.len()) }
                            td { (layer.dead_units.len()) }
                        }
                    }
                }
            }
        }
    }
}

fn condition(value: f64) -> String {
    if value < CONDITION_MAX { format!("{value:.2}") } else { "infinite".to_owned() }
}

fn spectrum(l: usize, layer: &pb::LayerInspection) -> Result<Markup, CliError> {
    let points = layer.singular_values.iter().zip(1u32..).map(|(value, i)| (f64::from(i), *value)).collect();
    let chart = Chart {
        title: format!("Singular values of matrix {}", l + 1),
        scale: Scale::FromZero,
        series: vec![Series { name: String::new(), points }],
        levels: vec![Level { name: String::new(), at: 1.0 }],
        is_small: true,
        ..Chart::default()
    };
    chart.figure(&html! { "Matrix " (l + 1) ", " (layer.outputs) " × " (layer.inputs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_matrix_has_a_row_and_a_chart() {
        let layer = |singular_values: &[f64], condition| pb::LayerInspection {
            outputs: 2,
            inputs: 3,
            singular_values: singular_values.to_vec(),
            condition,
            rank: 1,
            dead_units: vec![0, 1],
            ..Default::default()
        };
        let layers = vec![layer(&[2.0, 0.0], f64::INFINITY), layer(&[1.5, 1.25], 1.2)];
        let seen = pb::InspectModelResponse { layers, ..Default::default() };
        let text = matrices(&Ok(seen)).expect("draws").into_string();
        assert_eq!(text.matches("<title>Singular values of matrix").count(), 2, "{text}");
        for cell in ["<td>infinite</td>", "<td>1.20</td>", "<td>1 of 2</td>", "<td>2</td>", "<td>2 × 3</td>"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
    }

    #[test]
    fn a_missing_inspection_is_explained() {
        let text = matrices(&Err("a <large> matrix".to_owned())).expect("text").into_string();
        assert!(text.contains("a &lt;large&gt; matrix."), "{text}");
    }
}
