//! Draws charts as inline SVG.

use std::fmt::Display;

use maud::{Markup, PreEscaped, html};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::cli::CliError;

/// Colors with enough contrast on white and on nearly black.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x3B, 0x82, 0xD0),
    RGBColor(0xD9, 0x6A, 0x0D),
    RGBColor(0x2A, 0x96, 0x5B),
    RGBColor(0xC0, 0x55, 0xB0),
    RGBColor(0xD6, 0x45, 0x50),
    RGBColor(0x18, 0x95, 0xA0),
    RGBColor(0x8A, 0x6F, 0xE0),
    RGBColor(0x8F, 0x82, 0x1F),
];
/// These two colors depend on the color scheme: [`style`] maps them to variables of the style sheet.
const INK: RGBColor = RGBColor(0x57, 0x60, 0x6A);
const GRID: RGBColor = RGBColor(0xDE, 0xE2, 0xE6);
/// Drawing units per pixel of the page. Coordinates are integers; with one unit per pixel, curves would show steps.
const FINE: u32 = 4;
/// Maximum points of a curve; more are not visible.
const POINTS_MAX: usize = 400;
/// Maximum points that are marked with a dot each.
const DOTS_MAX: usize = 30;
/// Limits of values on an axis, and minimum span of an axis relative to its ends. Beyond them, rounding would swallow
/// the tick steps and the loop over ticks would not end.
const SIZE_MAX: f64 = 1e30;
const SIZE_MIN: f64 = 1e-30;
const SPAN_MIN: f64 = 1e-4;
/// Margin above and below the values, as a share of the range.
const MARGIN: f64 = 0.04;

/// A curve.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A straight line at a value, for example PCA.
pub(super) struct Level {
    pub(super) name: String,
    pub(super) at: f64,
}

/// A bar of a histogram: its range on the horizontal axis, and its height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) height: f64,
}

/// Scale of the vertical axis.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Scale {
    /// Linear, around the values.
    #[default]
    Linear,
    /// Linear from 0; negative values are left out.
    FromZero,
    /// Logarithmic, in whole decades; values that are not positive are left out.
    Decades,
}

/// A chart. The legend lists named lines in the order of the fields.
#[derive(Default)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) scale: Scale,
    pub(super) series: Vec<Series>,
    pub(super) bars: Vec<Bar>,
    /// Horizontal lines, each at its value on the vertical axis.
    pub(super) levels: Vec<Level>,
    /// Vertical lines, each at its value on the horizontal axis.
    pub(super) uprights: Vec<Level>,
    /// One of several small charts side by side.
    pub(super) is_small: bool,
}

impl Chart {
    /// Draws the figure with its legend and `caption`.
    ///
    /// # Errors
    /// [`CliError::Failed`] if it cannot be drawn.
    pub(super) fn figure(mut self, caption: &Markup) -> Result<Markup, CliError> {
        self.make_fit();
        let (width, height) = self.size();
        let drawn = self.draw().map_err(|error| CliError::Failed(format!("chart {:?}: {error}", self.title)))?;
        // Replaces the outer `svg` element by the one below, which has a title.
        let inner = drawn.split_once('>').map_or("", |(_, rest)| rest);
        let inner = inner.trim_end().strip_suffix("</svg>").unwrap_or(inner);
        Ok(html! {
            figure class=[self.is_small.then_some("small")] {
                svg viewBox=(format!("0 0 {width} {height}")) role="img" {
                    title { (self.title) }
                    (PreEscaped(inner))
                }
                (self.legend())
                figcaption { (caption) }
            }
        })
    }

    /// Removes values that do not fit the axes, and points that could not be told apart.
    fn make_fit(&mut self) {
        // The drawing uses integer coordinates: a point far outside would overflow instead of being clipped.
        let least = match self.scale {
            Scale::Linear => -SIZE_MAX,
            Scale::FromZero => 0.0,
            Scale::Decades => SIZE_MIN,
        };
        let fits = |x: f64, y: f64| x.abs() <= SIZE_MAX && (least..=SIZE_MAX).contains(&y);
        for series in &mut self.series {
            series.points.retain(|(x, y)| fits(*x, *y));
            series.points = thinned(&series.points);
        }
        self.series.retain(|series| !series.points.is_empty());
        self.bars.retain(|bar| fits(bar.from, bar.height) && fits(bar.to, bar.height));
        self.levels.retain(|level| fits(0.0, level.at));
        self.uprights.retain(|level| fits(level.at, SIZE_MIN));
    }

    fn size(&self) -> (u32, u32) {
        if self.is_small { (300 * FINE, 200 * FINE) } else { (760 * FINE, 300 * FINE) }
    }

    fn draw(&self) -> Result<String, Box<dyn std::error::Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let xs = points().map(|(x, _)| *x).chain(self.bars.iter().flat_map(|bar| [bar.from, bar.to]));
        let (left, right) = range(xs.chain(self.uprights.iter().map(|level| level.at)));
        let ys = points().map(|(_, y)| *y).chain(self.bars.iter().map(|bar| bar.height));
        let (least, most) = range(ys.chain(self.levels.iter().map(|level| level.at)));
        let (left, right) = wide_enough(left, right);
        match self.scale {
            Scale::Linear => {
                let (least, most) = wide_enough(least, most);
                let room = MARGIN * (most - least);
                self.draw_on(left..right, least - room..most + room)
            }
            Scale::FromZero => {
                let most = if most > SIZE_MIN { most * (1.0 + MARGIN) } else { 1.0 };
                self.draw_on(left..right, 0.0..most)
            }
            Scale::Decades => {
                let (floor, ceiling) = (least.log10().floor() as i32, most.log10().ceil() as i32);
                let decades = 10f64.powi(floor)..10f64.powi(ceiling.max(floor + 1));
                self.draw_on(left..right, decades.log_scale())
            }
        }
    }

    fn draw_on<Y>(&self, x: std::ops::Range<f64>, y: Y) -> Result<String, Box<dyn std::error::Error>>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, self.size()).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin(8 * FINE)
                .x_label_area_size(if self.is_small { 20 } else { 38 } * FINE)
                .y_label_area_size(if self.is_small { 44 } else { 62 } * FINE)
                .build_cartesian_2d(x.clone(), y)?;
            let y_ends = chart.y_range();
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_desc(self.x)
                .y_desc(self.y)
                .x_labels(if self.is_small { 5 } else { 10 })
                .y_labels(if self.is_small { 5 } else { 7 })
                .x_label_formatter(&|value| tick(*value))
                .y_label_formatter(&|value| tick(*value))
                .axis_style(GRID.stroke_width(FINE))
                .bold_line_style(GRID.stroke_width(FINE))
                .light_line_style(TRANSPARENT)
                .label_style(("sans-serif", 15 * FINE).with_color(INK))
                .draw()?;
            // Leaves a small gap between two bars.
            chart.draw_series(self.bars.iter().map(|bar| {
                let gap = (bar.to - bar.from) * 0.06;
                Rectangle::new([(bar.from + gap, 0.0), (bar.to - gap, bar.height)], PALETTE[0].filled())
            }))?;
            for (i, series) in self.series.iter().enumerate() {
                let style = PALETTE[i % PALETTE.len()].stroke_width(line_width(i) * FINE);
                chart.draw_series(LineSeries::new(series.points.iter().copied(), style))?;
                if series.points.len() <= DOTS_MAX {
                    let dot = |point: &(f64, f64)| Circle::new(*point, 5 * FINE / 2, style.filled());
                    chart.draw_series(series.points.iter().map(dot))?;
                }
            }
            let levels = self.levels.iter().map(|level| [(x.start, level.at), (x.end, level.at)]);
            let uprights = self.uprights.iter().map(|level| [(level.at, y_ends.start), (level.at, y_ends.end)]);
            for (i, ends) in levels.chain(uprights).enumerate() {
                let style = self.straight_color(i).stroke_width(2 * FINE);
                chart.draw_series(DashedLineSeries::new(ends, 6 * FINE, 4 * FINE, style))?;
            }
            area.present()?;
        }
        Ok(text)
    }

    /// Straight lines use the colors after those of the curves and bars.
    fn straight_color(&self, i: usize) -> RGBColor {
        PALETTE[(self.series.len() + usize::from(!self.bars.is_empty()) + i) % PALETTE.len()]
    }

    fn legend(&self) -> Markup {
        let curves = self.series.iter().enumerate().map(|(i, series)| {
            (&series.name, format!("border-top:{}px solid {}", line_width(i) + 1, hex(PALETTE[i % PALETTE.len()])))
        });
        let straight = self.levels.iter().chain(&self.uprights).enumerate();
        let straight =
            straight.map(|(i, level)| (&level.name, format!("border-top:3px dashed {}", hex(self.straight_color(i)))));
        let entries: Vec<_> = curves.chain(straight).collect();
        html! {
            @if entries.iter().any(|(name, _)| !name.is_empty()) {
                ul.legend {
                    @for (name, style) in entries {
                        li { span.swatch style=(style) {} (name) }
                    }
                }
            }
        }
    }
}

/// Style rules for charts: the colors that follow the color scheme.
pub(super) fn style() -> String {
    let (ink, grid) = (hex(INK), hex(GRID));
    format!("svg [fill=\"{ink}\"]{{fill:var(--quiet)}}svg [stroke=\"{grid}\"]{{stroke:var(--line)}}")
}

/// Curves that repeat a color have thinner lines.
fn line_width(i: usize) -> u32 {
    if i < PALETTE.len() { 2 } else { 1 }
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// At most `POINTS_MAX` points at even distances, with the first and the last.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    (0..POINTS_MAX).map(|i| points[i * (points.len() - 1) / (POINTS_MAX - 1)]).collect()
}

/// The smallest and the largest value; (1, 1) if there are none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    if ends.0 <= ends.1 { ends } else { (1.0, 1.0) }
}

/// The range, widened if it is too narrow for ticks.
fn wide_enough(least: f64, most: f64) -> (f64, f64) {
    let size = least.abs().max(most.abs());
    let span = if size > SIZE_MIN { SPAN_MIN * size } else { 1.0 };
    if most - least >= span { (least, most) } else { (least - span / 2.0, most + span / 2.0) }
}

/// A tick label with at most five decimals.
fn tick(value: f64) -> String {
    let plain = |value: f64| short(format!("{value:.5}"));
    match value.abs() {
        0.0 => "0".to_owned(),
        1e-3..1e5 => plain(value),
        _ => {
            let text = format!("{value:.2e}");
            text.split_once('e').map_or(text.clone(), |(digits, power)| format!("{}e{power}", short(digits)))
        }
    }
}

/// Removes trailing zeros of a fraction.
fn short(digits: impl Display) -> String {
    let text = digits.to_string();
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, points: &[(f64, f64)]) -> Chart {
        let series = vec![Series { name: "<i>&".to_owned(), points: points.to_vec() }];
        Chart { title: "<b>".to_owned(), scale, series, ..Chart::default() }
    }

    fn drawn(chart: Chart) -> String {
        chart.figure(&html! {}).expect("draws").into_string()
    }

    #[test]
    fn names_are_escaped_and_a_title_comes_first() {
        let text = drawn(chart(Scale::Linear, &[(1.0, 2.0), (2.0, 3.0)]));
        assert!(text.contains("role=\"img\"><title>&lt;b&gt;</title>") && text.contains("&lt;i&gt;&amp;"), "{text}");
        assert!(!text.contains("<b>") && !text.contains("<i>") && !text.contains("http"), "{text}");
        assert_eq!((text.matches("<svg").count(), text.matches("</svg>").count()), (1, 1));
    }

    #[test]
    fn points_that_the_scale_cannot_show_are_omitted() {
        let points = [(1.0, 0.0), (2.0, f64::NAN), (3.0, 1e-3), (4.0, f64::INFINITY), (5.0, 1e-5)];
        let mut chart = chart(Scale::Decades, &points);
        chart.levels.push(Level { name: "gone".to_owned(), at: 0.0 });
        chart.make_fit();
        assert_eq!(chart.series[0].points, [(3.0, 1e-3), (5.0, 1e-5)]);
        assert!(chart.levels.is_empty());
    }

    #[test]
    fn any_points_can_be_drawn() {
        let ends = [0.0, 1.0, 1.0 + 1e-15, -1.0, 1e-300, 1e-29, 1e29, 1e300, f64::MIN_POSITIVE, f64::MAX, f64::NAN];
        for scale in [Scale::Linear, Scale::FromZero, Scale::Decades] {
            assert!(drawn(chart(scale, &[])).contains("</svg>"), "{scale:?}");
            for (a, b) in ends.into_iter().flat_map(|a| ends.map(|b| (a, b))) {
                let text = drawn(chart(scale, &[(a, b), (b, a)]));
                assert!(text.contains("</svg>") && text.len() < 100_000, "{scale:?} {a} {b}");
            }
        }
    }

    #[test]
    fn a_single_value_has_an_axis_around_it() {
        assert_eq!(wide_enough(0.0, 0.0), (-0.5, 0.5));
        assert_eq!(wide_enough(1.0, 3.0), (1.0, 3.0));
        let (least, most) = wide_enough(1e6, 1e6);
        assert!(least < 1e6 - 10.0 && most > 1e6 + 10.0, "{least} {most}");
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_ends() {
        let points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0], thin[POINTS_MAX - 1]), (POINTS_MAX, points[0], points[99_999]));
        assert_eq!(thinned(&points[..POINTS_MAX]), points[..POINTS_MAX]);
    }

    #[test]
    fn axis_labels_are_short() {
        let values = [0.0, 0.1 + 0.2, -2.5, 120.0, 1e-4, 2.5e6, 100_000.0, 0.001];
        assert_eq!(values.map(tick), ["0", "0.3", "-2.5", "120", "1e-4", "2.5e6", "1e5", "0.001"]);
    }
}
