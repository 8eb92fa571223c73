//! The text of source files, as checks read it: without comments and tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// All source files below a folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(list(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a part of a path, with or without `.rs`, names tests.
pub(crate) fn is_test(part: &str) -> bool {
    let part = part.strip_suffix(".rs").unwrap_or(part);
    part == "tests" || part == "testing" || part.ends_with("_tests")
}

/// Without comments, and without the tests at the end.
pub(crate) fn code_of(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut code = String::new();
    let mut before = "";
    for line in lines {
        if before == "#[cfg(test)]" && line.contains("mod ") && line.ends_with('{') {
            break;
        }
        code.push_str(line);
        code.push('\n');
        before = line;
    }
    code
}
