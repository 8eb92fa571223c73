//! What neither rustfmt nor clippy sees: sizes of files, module headers, left-overs, this machine's paths, tabs.
//!
//! Knows text only. Left-overs are searched for by names put together here, so that this file does not hold them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Lines of a file in a `src` directory, tests not counted.
const CODE_LINES_MAX: usize = 500;
/// Directories that are made, not written.
const SKIPPED: [&str; 4] = ["target", ".git", ".kafka", "node_modules"];
/// Files that are read.
const TEXT: [&str; 9] = ["rs", "toml", "proto", "md", "sh", "yaml", "yml", "json", "xml"];
/// Files that may not hold tabs.
const NO_TABS: [&str; 6] = ["rs", "toml", "proto", "md", "yaml", "yml"];
const LEFT_OVERS: [&str; 4] =
    [concat!("to", "do!"), concat!("unimpl", "emented!"), concat!("FIX", "ME"), concat!("X", "XX")];
const MACHINE_PATHS: [&str; 3] = [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Checks all files below `root`; the violations, one per line of text.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    list(root, &mut files)?;
    files.sort();
    if !files.iter().any(|file| has_extension(file, &["rs"])) {
        bail!("{} holds no Rust code", root.display());
    }
    let mut violations = Vec::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_path_buf();
        match String::from_utf8(bytes) {
            Ok(text) => violations.extend(check_file(&name, &text)),
            Err(_) => violations.push(format!("{}: not UTF-8", name.display())),
        }
    }
    Ok(violations)
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        let (path, kind) = (entry.path(), entry.file_type().context("a file without a type")?);
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            list(&path, files)?;
        } else if kind.is_file() && is_text(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_text(path: &Path) -> bool {
    has_extension(path, &TEXT) || path.ends_with(".ci/run")
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
}

fn check_file(name: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |line: usize, what: String| found.push(format!("{}:{line}: {what}", name.display()));
    if has_extension(name, &["rs"]) {
        if !text.starts_with("//!") {
            say(1, "a module begins with `//!`: what it owns and what it must not know".to_owned());
        }
        if is_product_code(name) && name.ends_with("mod.rs") {
            say(1, "a module is called by its name: `x.rs` beside the folder `x`".to_owned());
        }
        let lines = code_lines(text);
        if is_product_code(name) && lines > CODE_LINES_MAX {
            say(1, format!("{lines} lines of code, at most {CODE_LINES_MAX}: split it"));
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        if has_extension(name, &["rs"]) {
            for left_over in LEFT_OVERS.iter().filter(|word| holds_word(line, word)) {
                say(number, format!("`{left_over}` is left over"));
            }
        }
        for path in MACHINE_PATHS.iter().filter(|path| holds_path(line, path)) {
            say(number, format!("`{path}` is a path of somebody's machine"));
        }
        if has_extension(name, &NO_TABS) && line.contains('\t') {
            say(number, "a tab".to_owned());
        }
    }
    found
}

/// Below a `src` directory and no test.
fn is_product_code(name: &Path) -> bool {
    let in_src = name.iter().any(|part| part == "src");
    let stem = name.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    in_src && stem != "tests" && !stem.ends_with("_tests") && !name.iter().any(|part| part == "tests")
}

/// Lines without the modules at the top level that are `#[cfg(test)]`.
fn code_lines(text: &str) -> usize {
    let mut count = 0;
    let mut attribute = false;
    let mut in_tests = false;
    for line in text.lines() {
        if in_tests {
            in_tests = line != "}";
        } else if line == "#[cfg(test)]" {
            attribute = true;
        } else if attribute && line.starts_with("#[") {
        } else if attribute && line.starts_with("mod ") && line.ends_with('{') {
            (attribute, in_tests) = (false, true);
        } else {
            attribute = false;
            count += 1;
        }
    }
    count
}

/// The word with no letter, digit or `_` around it.
fn holds_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line.get(..start).and_then(|text| text.chars().next_back());
        let after = line.get(start + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part_of_name) && (word.ends_with('!') || !after.is_some_and(part_of_name))
    })
}

/// The path at its beginning, not as a part of a longer one or of an address.
fn holds_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(start, _)| {
        let before = line.get(..start).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | '*'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Vec<String> {
        check_file(Path::new(name), text)
    }

    #[test]
    fn sound_files_pass() {
        assert!(found("crates/a/src/lib.rs", "//! A module.\n\nfn sound() {}\n").is_empty());
        assert!(found("README.md", "see https://host/some/home/page\n").is_empty());
    }

    #[test]
    fn modules_need_a_header() {
        assert_eq!(found("crates/a/src/lib.rs", "fn a() {}\n").len(), 1);
        assert_eq!(found("crates/a/src/lib.rs", "").len(), 1);
        assert_eq!(found("crates/a/src/b/mod.rs", "//! A module.\n").len(), 1, "it is called b.rs");
    }

    #[test]
    fn left_overs_are_found_as_words() {
        for word in LEFT_OVERS {
            let text = format!("//! A module.\nfn a() {{ {word}() }}\n");
            assert_eq!(found("crates/a/src/lib.rs", &text).len(), 1, "{word}");
            assert!(
                found("crates/a/src/lib.rs", &format!("//! A module.\nlet a_{word} = 1;\n")).is_empty(),
                "{word}"
            );
        }
        assert!(found("crates/a/src/lib.rs", &format!("//! {}X\n", LEFT_OVERS[3])).is_empty());
    }

    #[test]
    fn machine_paths_and_tabs_are_found() {
        for path in MACHINE_PATHS {
            assert_eq!(found("Cargo.toml", &format!("path = \"{path}me\"\n")).len(), 1, "{path}");
            assert_eq!(found("README.md", &format!("{path}me\n")).len(), 1, "{path}");
            assert!(found("README.md", &format!("frame{path}me\n")).is_empty(), "{path}");
        }
        assert_eq!(found("a.yaml", "a:\tb\n"), ["a.yaml:1: a tab"]);
        assert!(found("run.sh", "\tls\n").is_empty());
    }

    #[test]
    fn long_files_are_refused_and_tests_do_not_count() {
        let code = "//! A module.\n".to_owned() + &"fn a() {}\n".repeat(CODE_LINES_MAX - 1);
        assert!(found("crates/a/src/lib.rs", &code).is_empty());
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn a() {}\n".repeat(900));
        assert!(found("crates/a/src/lib.rs", &tests).is_empty());
        assert_eq!(found("crates/a/src/lib.rs", &format!("{tests}fn b() {{}}\n")).len(), 1);
        assert_eq!(found("crates/a/src/lib.rs", &format!("{code}fn b() {{}}\n")).len(), 1);
        assert!(found("crates/a/tests/it/main.rs", &format!("{code}fn b() {{}}\n")).is_empty());
        assert!(found("crates/a/src/a_tests.rs", &format!("{code}fn b() {{}}\n")).is_empty());
    }
}
