//! Reads what `cargo test` says, line by line, and counts. Pure.
//!
//! The counts come from each binary's own closing line; a binary that began and never closed counts as a failure, and
//! so does a run that ran nothing: silence is no pass.

use std::fmt::Write as _;

/// One test binary (or the examples in a crate's documentation).
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Binary {
    pub(crate) name: String,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) seconds: f64,
    /// It said its closing line.
    pub(crate) closed: bool,
}

/// All of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) binaries: Vec<Binary>,
    pub(crate) failed_tests: Vec<String>,
    pub(crate) skipped_tests: Vec<String>,
    pub(crate) other_failures: Vec<String>,
    /// Parts of tests that this machine can't run.
    pub(crate) skipped_parts: Vec<String>,
}

impl Report {
    /// Takes the next line.
    pub(crate) fn line(&mut self, line: &str) {
        let trimmed = line.trim();
        if let Some(name) =
            trimmed.strip_prefix("Running ").filter(|_| line.starts_with(' ')).and_then(running_name)
        {
            self.begin(name);
        } else if let Some(rest) = trimmed.strip_prefix("Doc-tests ").filter(|_| line.starts_with(' ')) {
            self.begin(format!("{rest} (documentation)"));
        } else if let Some(rest) = trimmed.strip_prefix("test result: ") {
            self.close(rest);
        } else if let Some((name, result)) =
            trimmed.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            if result.ends_with("FAILED") {
                self.failed_tests.push(self.full_name(name));
            } else if result.starts_with("ignored") {
                let reason =
                    result.strip_prefix("ignored, ").map(|reason| format!(": {reason}")).unwrap_or_default();
                self.skipped_tests.push(self.full_name(name) + &reason);
            }
        }
    }

    /// A part of a test is not run on this machine; `what` names the part and why.
    pub(crate) fn skip(&mut self, what: String) {
        self.skipped_parts.push(what);
    }

    /// The run is over; `succeeded` is what cargo's exit code says.
    pub(crate) fn finish(&mut self, succeeded: bool) {
        for binary in self.binaries.iter_mut().filter(|binary| !binary.closed) {
            binary.failed += 1;
            self.other_failures.push(format!("{} ended without a result", binary.name));
        }
        let (passed, failed, _) = self.counts();
        if passed + failed == 0 {
            self.other_failures.push("no test was run".to_owned());
        } else if !succeeded && failed == 0 {
            self.other_failures.push("`cargo test` failed".to_owned());
        } else if succeeded && failed > 0 {
            self.other_failures.push("`cargo test` succeeded all the same".to_owned());
        }
    }

    /// Passed, failed and skipped tests. What failed outside of any test counts as one more failure.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let sum = |pick: fn(&Binary) -> u64| self.binaries.iter().map(pick).sum::<u64>();
        let failed = sum(|binary| binary.failed);
        let outside = u64::from(failed == 0 && !self.other_failures.is_empty());
        let skipped = sum(|binary| binary.skipped) + self.skipped_parts.len() as u64;
        (sum(|binary| binary.passed), failed + outside, skipped)
    }

    /// The summary: a table, the names that matter, and `N passed, N failed, N skipped` as its last line.
    pub(crate) fn summary(&self) -> String {
        let (passed, failed, skipped) = self.counts();
        let mut text = format!("{:>7} {:>7} {:>8} {:>8}  binary\n", "passed", "failed", "skipped", "seconds");
        for Binary { name, passed, failed, skipped, seconds, .. } in &self.binaries {
            if passed + failed + skipped > 0 {
                // Writing to a string can't fail.
                writeln!(text, "{passed:>7} {failed:>7} {skipped:>8} {seconds:>8.1}  {name}").ok();
            }
        }
        for (what, names) in [
            ("skipped", &self.skipped_tests),
            ("skipped", &self.skipped_parts),
            ("FAILED", &self.failed_tests),
            ("FAILED", &self.other_failures),
        ] {
            for name in names {
                writeln!(text, "{what}: {name}").ok();
            }
        }
        write!(text, "{passed} passed, {failed} failed, {skipped} skipped").ok();
        text
    }

    fn begin(&mut self, name: String) {
        self.binaries.push(Binary { name, ..Binary::default() });
    }

    /// `ok. 31 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.94s`
    fn close(&mut self, result: &str) {
        let Some(binary) = self.binaries.last_mut() else { return };
        let count = |what: &str| {
            let part = result.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(what))?;
            part.trim().parse::<u64>().ok()
        };
        let (Some(passed), Some(failed), Some(skipped)) =
            (count("passed"), count("failed"), count("ignored"))
        else {
            return;
        };
        let seconds =
            result.rsplit("finished in ").next().and_then(|text| text.trim_end_matches('s').parse().ok());
        // The documentation of one crate may close twice, once merged and once each.
        binary.passed += passed;
        binary.failed += failed;
        binary.skipped += skipped;
        binary.seconds += seconds.unwrap_or(0.0);
        binary.closed = true;
    }

    fn full_name(&self, test: &str) -> String {
        let binary = self.binaries.last().map_or("", |binary| binary.name.as_str());
        format!("{binary}: {test}")
    }
}

/// From `unittests src/lib.rs (target/debug/deps/mirrormesh_core-0123456789abcdef)`: the crate and the file.
fn running_name(text: &str) -> Option<String> {
    let (file, binary) = text.strip_suffix(')')?.rsplit_once(" (")?;
    let binary = binary.rsplit('/').next()?;
    let krate = binary.rsplit_once('-').map_or(binary, |(krate, _)| krate);
    Some(format!("{krate} {}", file.trim_start_matches("unittests ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r"     Running unittests src/lib.rs (target/debug/deps/mirrormesh_core-0123456789abcdef)

running 3 tests
test ids::tests::good ... ok
test ids::tests::slow ... ignored, takes an hour
test ids::tests::other ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.50s

     Running tests/it/main.rs (target/debug/deps/it-0123456789abcdef)
test kafka::starts ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.25s

   Doc-tests mirrormesh_core
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.20s
";

    fn report(text: &str, succeeded: bool) -> Report {
        let mut report = Report::default();
        text.lines().for_each(|line| report.line(line));
        report.finish(succeeded);
        report
    }

    fn last_line(report: &Report) -> String {
        report.summary().lines().last().unwrap().to_owned()
    }

    #[test]
    fn a_sound_run_is_counted() {
        let report = report(SOUND, true);
        assert_eq!(report.counts(), (6, 0, 1));
        assert_eq!(last_line(&report), "6 passed, 0 failed, 1 skipped");
        assert_eq!(report.binaries[0].name, "mirrormesh_core src/lib.rs");
        assert!((report.binaries[1].seconds - 61.25).abs() < 0.001);
        assert!(
            report.summary().contains("skipped: mirrormesh_core src/lib.rs: ids::tests::slow: takes an hour")
        );
        assert!(!report.summary().contains("FAILED"));
    }

    #[test]
    fn a_part_that_can_not_be_run_is_a_skip() {
        let mut report = report(SOUND, true);
        report.skip("the commands: no grpcurl".to_owned());
        assert_eq!(last_line(&report), "6 passed, 0 failed, 2 skipped");
        assert!(report.summary().contains("skipped: the commands: no grpcurl"));
    }

    #[test]
    fn failures_are_named() {
        let text = SOUND.replace("starts ... ok", "starts ... FAILED").replace(
            "ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61",
            "FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61",
        );
        let report = report(&text, false);
        assert_eq!(last_line(&report), "5 passed, 1 failed, 1 skipped");
        assert!(report.summary().contains("FAILED: it tests/it/main.rs: kafka::starts"));
    }

    #[test]
    fn a_crashed_binary_is_a_failure() {
        let text = "     Running tests/it/main.rs (target/debug/deps/it-0123456789abcdef)\ntest a ... error: signal: 9\n";
        let alone = report(text, false);
        assert_eq!(last_line(&alone), "0 passed, 1 failed, 0 skipped");
        assert!(alone.summary().contains("it tests/it/main.rs ended without a result"));
        // Even if it was not the only one and cargo is content.
        let both = report(&(SOUND.to_owned() + text), true);
        assert_eq!(last_line(&both), "6 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn nothing_run_is_a_failure() {
        for succeeded in [true, false] {
            let report = report("error: could not compile `a`\n", succeeded);
            assert_eq!(last_line(&report), "0 passed, 1 failed, 0 skipped");
        }
        let only_skipped = "     Running a (b-1)\ntest result: ok. 0 passed; 0 failed; 5 ignored; 0 measured; finished in 1s\n";
        assert_eq!(last_line(&report(only_skipped, true)), "0 passed, 1 failed, 5 skipped");
    }

    #[test]
    fn the_exit_code_counts_too() {
        let report = report(SOUND, false);
        assert_eq!(last_line(&report), "6 passed, 1 failed, 1 skipped");
        assert!(report.summary().contains("FAILED: `cargo test` failed"));
    }

    #[test]
    fn what_a_test_prints_is_no_result() {
        let text = SOUND.replace("running 3 tests", "  Running wild\ntest result: none\na test ... FAILED");
        assert_eq!(report(&text, true).counts(), (6, 0, 1));
    }
}
