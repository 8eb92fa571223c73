//! The growth of cost as a page of text with a table, and as a plot (SVG, written by hand: a few lines and words).

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::cost::Point;
use super::results::Values;
use crate::measure::{hardware, today};

const PANEL_WIDTH: f64 = 260.0;
const PANEL_HEIGHT: f64 = 190.0;
/// Around the lines of a panel: room for numbers and words.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 38.0;
const HEADING: f64 = 44.0;

/// A figure that has a panel of its own.
struct Panel {
    name: &'static str,
    title: &'static str,
}

const PANELS: [Panel; 5] = [
    Panel { name: "cpu_percent", title: "CPU, % of a core" },
    Panel { name: "resident_mb", title: "memory, MB" },
    Panel { name: "sockets", title: "sockets" },
    Panel { name: "p50_ms", title: "added latency p50, ms" },
    Panel { name: "p99_ms", title: "added latency p99, ms" },
];

/// One line of points: what is on its x axis, and the figures at each place.
struct Series<'a> {
    axis: &'static str,
    points: Vec<(f64, &'a Values)>,
}

/// Writes `relay-cost.md` and `relay-cost.svg`.
pub(crate) fn write(folder: &Path, measured: &[(Point, Values)], about: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for (name, text) in [("relay-cost.md", page(measured, about)?), ("relay-cost.svg", svg(measured, about)?)]
    {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The table, in Markdown.
pub(crate) fn table(measured: &[(Point, Values)]) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "| partitions | flows | records/s | CPU, % of a core | memory, MB | sockets | added p50, ms | p99 | max |\n\
         |---|---|---|---|---|---|---|---|---|"
    )?;
    for (point, values) in measured {
        let of = |name: &str| values.get(name).copied().unwrap_or(f64::NAN);
        writeln!(
            text,
            "| {} | {} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} |",
            point.partitions,
            point.flows,
            of("records_per_s"),
            of("cpu_percent"),
            of("resident_mb"),
            of("sockets"),
            of("p50_ms"),
            of("p99_ms"),
            of("max_ms"),
        )?;
    }
    Ok(text)
}

fn page(measured: &[(Point, Values)], about: &str) -> Result<String> {
    Ok(format!(
        "# How the relay's cost grows\n\n\
         `cargo xtask bench relay --full --only cost`, {}, {}; both brokers on the same cores.\n\n\
         {about}\n\n{}\n![the same as a plot](relay-cost.svg)\n",
        today(),
        hardware(),
        table(measured)?
    ))
}

fn svg(measured: &[(Point, Values)], about: &str) -> Result<String> {
    let spread: Vec<_> = measured.iter().filter(|(p, _)| p.flows > 1).map(|(p, _)| p.partitions).collect();
    // The points of the flows' series have the number of partitions that those with several flows have.
    let of_flows = |p: &Point| spread.contains(&p.partitions);
    let partitions = measured.iter().filter(|(p, _)| !of_flows(p));
    let flows = measured.iter().filter(|(p, _)| of_flows(p));
    let series = [
        Series {
            axis: "partitions, one flow",
            points: partitions.map(|(p, v)| (f64::from(p.partitions), v)).collect(),
        },
        Series { axis: "flows", points: flows.map(|(p, v)| (f64::from(p.flows), v)).collect() },
    ];
    let width = PANEL_WIDTH * PANELS.len() as f64;
    let height = HEADING + PANEL_HEIGHT * series.len() as f64;
    let mut text = String::new();
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"18\" font-size=\"13\">{}</text>\n<text x=\"12\" y=\"34\" fill=\"#666\">{}, {}</text>",
        escape(about),
        today(),
        escape(&hardware())
    )?;
    for (row, series) in series.iter().enumerate() {
        for (column, panel) in PANELS.iter().enumerate() {
            let origin = (column as f64 * PANEL_WIDTH, HEADING + row as f64 * PANEL_HEIGHT);
            draw(&mut text, panel, series, origin)?;
        }
    }
    text.push_str("</svg>\n");
    Ok(text)
}

/// One panel: logarithmic to the right, linear from zero upwards.
fn draw(text: &mut String, panel: &Panel, series: &Series<'_>, (x0, y0): (f64, f64)) -> Result<()> {
    let points: Vec<(f64, f64)> = series
        .points
        .iter()
        .filter_map(|(x, values)| values.get(panel.name).map(|&y| (*x, y.max(0.0))))
        .collect();
    let (left, right) = (x0 + LEFT, x0 + PANEL_WIDTH - RIGHT);
    let (top, bottom) = (y0 + TOP, y0 + PANEL_HEIGHT - BOTTOM);
    let x_max = points.iter().map(|p| p.0).fold(1.0, f64::max);
    let y_max = round_up(points.iter().map(|p| p.1).fold(0.0, f64::max));
    let x = |value: f64| left + (right - left) * value.max(1.0).ln() / x_max.max(2.0).ln();
    let y = |value: f64| bottom - (bottom - top) * value / y_max;
    writeln!(
        text,
        "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
        top - 10.0,
        panel.title
    )?;
    for share in [0.0, 0.5, 1.0] {
        let (value, at) = (y_max * share, y(y_max * share));
        writeln!(
            text,
            "<line x1=\"{left:.1}\" y1=\"{at:.1}\" x2=\"{right:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{value}</text>",
            left - 4.0,
            at + 4.0
        )?;
    }
    let mut path = String::new();
    for &(value, figure) in &points {
        write!(path, "{:.1},{:.1} ", x(value), y(figure))?;
        writeln!(
            text,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#1f6feb\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{value}</text>",
            x(value),
            y(figure),
            x(value),
            bottom + 14.0
        )?;
    }
    writeln!(text, "<polyline points=\"{path}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"1.5\"/>")?;
    let middle = f64::midpoint(left, right);
    let below = bottom + 28.0;
    writeln!(text, "<text x=\"{middle:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{}</text>", series.axis)?;
    Ok(())
}

/// The next of 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let base = 10_f64.powf(value.max(1e-3).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * base).find(|&round| round >= value).unwrap_or(value)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
