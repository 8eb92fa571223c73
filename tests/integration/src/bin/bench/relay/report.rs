//! The tables for people and the file for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::bars;
use super::results::Results;
use super::row::Row;
use super::sets::Set;
use super::stall::Point;
use super::{first, idle, latency};
use crate::measure::{hardware, today};

/// Where and when.
pub(crate) fn heading(full: bool) -> String {
    let form = if full { "full" } else { "quick" };
    format!("bench relay, {form} form, {}, {}; brokers and mirrors share its cores", today(), hardware())
}

/// The table of one data set.
pub(crate) fn table(results: &Results, set: &Set) {
    let data = &set.data;
    println!(
        "\n{}: {}; {} records, {:.0} MB, {} partitions",
        set.name,
        set.title,
        data.records,
        data.bytes() as f64 / 1e6,
        data.partitions
    );
    println!(
        "{:<28} {:>4} {:>8} {:>11} {:>9} {:>7} {:>10} {:>8} {:>8} {:>9} {:>9}",
        "",
        "runs",
        "MB/s",
        "records/s",
        "core-s/GB",
        "(user)",
        "core-s/Mr",
        "peak MB",
        "first s",
        "ours: x",
        "CPU x"
    );
    let of = |row: Row, name: &str| results.median(set.name, row, name);
    let ratio = |row: Row, name: &str| {
        of(Row::Source, name)
            .zip(of(row, name))
            .map_or_else(|| "-".to_owned(), |(a, b)| format!("{:.3}", a / b))
    };
    for (row, runs) in results.rows(set.name) {
        let value = |name: &str| of(row, name).unwrap_or(f64::NAN);
        println!(
            "{:<28} {runs:>4} {:>8.1} {:>11.0} {:>9.2} {:>7.2} {:>10.3} {:>8.0} {:>8.2} {:>9} {:>9}",
            row.title(),
            value("mb_per_s"),
            value("records_per_s"),
            value("core_s_per_gb"),
            value("user_s_per_gb"),
            value("core_s_per_mrec"),
            value("peak_mb"),
            value("to_first_s"),
            ratio(row, "mb_per_s"),
            ratio(row, "core_s_per_gb"),
        );
    }
    if let Some(percent) = of(Row::Source, "coalesced_percent") {
        let batches = of(Row::Source, "batches_out").unwrap_or(0.0);
        // The sum of no series at all is -0.0.
        let lost = results.highest(set.name, Row::Source, "answers_lost").unwrap_or(0.0) + 0.0;
        println!(
            "  source service: {batches:.0} batches written, {percent:.0} % of them coalesced; {lost:.0} answers lost"
        );
    }
}

/// One of those that are no data sets which are copied at full speed.
pub(crate) fn special(results: &Results, wanted: &str) {
    let stalled = &[
        "partitions",
        "stalled_s",
        "waited_records",
        "resident_max_mb",
        "other_rate_ratio",
        "catch_up_s",
    ][..];
    let stalls = Point::ALL.map(|point| (point.name(), "a stalled target", stalled));
    let others = [
        (latency::NAME, "added latency, ms", &["p50_ms", "p99_ms", "max_ms", "records"][..]),
        (first::NAME, "exec to first record", &["to_first_s"][..]),
        (
            idle::NAME,
            "idle partitions",
            &["partitions", "cpu_percent", "resident_mb", "peak_mb", "sockets", "start_s"][..],
        ),
    ];
    for (set, title, names) in others.into_iter().chain(stalls) {
        for (row, runs) in results.rows(set).into_iter().filter(|_| set == wanted) {
            let of = |name: &&str| {
                let value = results.median(set, row, name);
                value.map_or_else(|| format!("{name} -"), |value| format!("{name} {value:.2}"))
            };
            let figures: Vec<String> = names.iter().map(of).collect();
            println!("\n{set}: {title}: {} ({runs} runs): {}", row.title(), figures.join(", "));
        }
    }
}

/// The verdicts, and whether all are good.
pub(crate) fn verdicts(results: &Results) -> bool {
    let bars = bars::all(results);
    println!("\nbars of the design");
    for bar in &bars {
        println!("{}", bar.line());
    }
    for line in &results.not_run {
        println!("----  {line}");
    }
    for error in &results.errors {
        println!("FAIL  {error}");
    }
    results.errors.is_empty() && bars.iter().all(bars::Bar::passes)
}

/// Writes everything to a file and says where it is.
pub(crate) fn write(path: &Path, full: bool, results: &Results, more: &Value) -> Result<()> {
    let bars: Vec<Value> = bars::all(results).iter().map(bars::Bar::json).collect();
    let all = json!({
        "date": today(), "hardware": hardware(), "form": if full { "full" } else { "quick" },
        "results": results.json(), "bars": bars, "more": more,
    });
    std::fs::write(path, format!("{all:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    println!("\n{}", path.display());
    Ok(())
}
