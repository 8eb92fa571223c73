//! What was measured: figures by data set, row and name, one for each run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::row::Row;
use crate::measure::median;

/// Figures of one run by name.
pub(crate) type Values = BTreeMap<&'static str, f64>;

/// All figures so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    runs: BTreeMap<(&'static str, Row), Vec<Values>>,
    /// Data sets in the order in which they were measured.
    order: Vec<&'static str>,
    /// What went wrong.
    pub(crate) errors: Vec<String>,
    /// Rows that could not be run on this machine.
    pub(crate) not_run: Vec<String>,
}

impl Results {
    /// Takes the outcome of one run.
    pub(crate) fn take(&mut self, set: &'static str, row: Row, outcome: anyhow::Result<Values>) {
        if !self.order.contains(&set) {
            self.order.push(set);
        }
        match outcome {
            Ok(values) => self.runs.entry((set, row)).or_default().push(values),
            Err(error) => self.fail(&format!("{set}, {}", row.name()), &error),
        }
    }

    /// Takes a failure, and says it at once.
    pub(crate) fn fail(&mut self, what: &str, error: &anyhow::Error) {
        let error = format!("{what}: {error:#}");
        println!("{error}");
        self.errors.push(error);
    }

    /// Notes that a row could not be run, and says it at once. It is no failure.
    pub(crate) fn not_run(&mut self, set: &'static str, row: Row, why: &str) {
        let line = format!("{set}, {}: could not be run: {why}", row.name());
        println!("{line}");
        self.not_run.push(line);
    }

    /// Data sets in the order in which they were measured.
    pub(crate) fn sets(&self) -> &[&'static str] {
        &self.order
    }

    /// Rows of a data set that have figures, with the number of runs.
    pub(crate) fn rows(&self, set: &'static str) -> Vec<(Row, usize)> {
        Row::ALL
            .into_iter()
            .filter_map(|row| self.runs.get(&(set, row)).map(|runs| (row, runs.len())))
            .collect()
    }

    /// The median over all runs.
    pub(crate) fn median(&self, set: &'static str, row: Row, name: &str) -> Option<f64> {
        let runs = self.runs.get(&(set, row))?;
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(name).copied()).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// The highest figure of all runs.
    pub(crate) fn highest(&self, set: &'static str, row: Row, name: &str) -> Option<f64> {
        let runs = self.runs.get(&(set, row))?;
        runs.iter().filter_map(|run| run.get(name).copied()).max_by(f64::total_cmp)
    }

    /// Everything, each run by itself.
    pub(crate) fn json(&self) -> Value {
        let sets = self.order.iter().map(|&set| {
            let rows = self.rows(set).into_iter().map(|(row, _)| {
                let runs = self.runs.get(&(set, row)).cloned().unwrap_or_default();
                let names: Vec<&str> = runs.iter().flat_map(BTreeMap::keys).copied().collect();
                let medians: BTreeMap<&str, Option<f64>> =
                    names.into_iter().map(|name| (name, self.median(set, row, name))).collect();
                (row.name().to_owned(), json!({ "median": medians, "runs": runs }))
            });
            (set.to_owned(), Value::Object(rows.collect()))
        });
        json!({ "sets": Value::Object(sets.collect()), "errors": self.errors, "not_run": self.not_run })
    }
}
