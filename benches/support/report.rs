//! Prints figures as they are measured: a table, or one JSON object per line.

use super::Options;

/// One figure of one case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) case: &'a str,
    pub(crate) figure: f64,
    /// The quantity and its unit: "requests/s", "p99 us".
    pub(crate) unit: &'a str,
    /// The best possible value here, measured in the same run, in the same unit; or the value to compare with.
    pub(crate) ceiling: Option<f64>,
    /// Figure divided by ceiling; with several rounds, the median of their ratios.
    pub(crate) ratio: Option<f64>,
}

/// Prints lines; the table's header precedes the first.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    json: bool,
    begun: bool,
    last_case: String,
}

impl Report {
    pub(crate) fn new(bench: &'static str, options: &Options) -> Self {
        Self { bench, json: options.json, begun: false, last_case: String::new() }
    }

    /// Prints a figure without a comparison.
    pub(crate) fn figure(&mut self, case: &str, figure: f64, unit: &str) {
        self.line(&Line { case, figure, unit, ceiling: None, ratio: None });
    }

    /// Prints a figure with its ceiling.
    pub(crate) fn against(&mut self, case: &str, figure: f64, unit: &str, ceiling: f64) {
        self.line(&Line { case, figure, unit, ceiling: Some(ceiling), ratio: Some(figure / ceiling) });
    }

    pub(crate) fn line(&mut self, line: &Line<'_>) {
        let Line { case, figure, unit, ceiling, ratio } = *line;
        if self.json {
            let bench = self.bench;
            println!(
                "{}",
                serde_json::json!({
                    "bench": bench, "case": case, "figure": figure, "unit": unit, "ceiling": ceiling, "ratio": ratio
                })
            );
            return;
        }
        if !self.begun {
            println!("{:>12} {:32} {:>12} {:>6}", "figure", "unit", "ceiling", "ratio");
            self.begun = true;
        }
        // Print a case's name once, above its figures.
        if case != self.last_case {
            println!("{case}");
            case.clone_into(&mut self.last_case);
        }
        let ceiling = ceiling.map_or_else(String::new, rounded);
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
        let row = format!("{:>12} {unit:32} {ceiling:>12} {ratio:>6}", rounded(figure));
        println!("{}", row.trim_end());
    }

    /// Prints a note for the reader. With `--json` it goes to standard error.
    pub(crate) fn note(&self, text: &str) {
        if self.json { eprintln!("{}: {text}", self.bench) } else { println!("# {text}") }
    }
}

/// Prints integers in full, and other numbers with four significant digits.
fn rounded(value: f64) -> String {
    if value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    let digits = (3.0 - value.abs().max(1e-3).log10().floor()).clamp(0.0, 3.0);
    format!("{value:.*}", digits as usize)
}
