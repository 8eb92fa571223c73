//! No two files of a package may import each other in a circle: whoever reads one of them has to read them all.
//!
//! Goes by the text: `use` declarations and paths in the code, without tests. What a file takes from the module that it is
//! a part of (`super`) is no import: a module may be split over several files. Macros that write paths are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::source_text::{code_of, is_test, list};

/// Where packages are that are shipped, and the tools.
const FOLDERS: [&str; 2] = ["crates", "services"];

/// The path of a module from its crate's root.
type ModulePath = Vec<String>;

/// The files of one package, by module.
#[derive(Debug, Default)]
struct Package {
    files: BTreeMap<ModulePath, SourceFile>,
}

/// What is known of one file.
#[derive(Debug)]
struct SourceFile {
    /// As it is reported.
    name: String,
    /// Every path that it names, from its crate's root.
    paths: BTreeSet<ModulePath>,
    /// What it hands on under another path: a name of this module, and where it comes from.
    handed_on: BTreeMap<String, ModulePath>,
}

/// The circles of all packages, one per line of text.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut circles = Vec::new();
    for folder in FOLDERS {
        let folder = root.join(folder);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let source = entry?.path().join("src");
            if source.is_dir() {
                circles.extend(read_package(root, &source)?.circles());
            }
        }
    }
    circles.sort();
    Ok(circles)
}

fn read_package(root: &Path, source: &Path) -> Result<Package> {
    let mut texts = BTreeMap::new();
    for file in list(source)? {
        let Some(module) = module_of(file.strip_prefix(source)?) else { continue };
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        texts.insert(module, (name, text));
    }
    Ok(Package::of(texts))
}

/// The module of a file below `src`; `None` for tests and programs beside the library.
fn module_of(file: &Path) -> Option<ModulePath> {
    let mut parts: Vec<String> = file.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let last = parts.pop()?;
    let stem = last.strip_suffix(".rs")?;
    if parts.first().is_some_and(|first| first == "bin") || parts.iter().any(|p| is_test(p)) || is_test(stem)
    {
        return None;
    }
    match stem {
        "main" if parts.is_empty() => return None,
        "lib" if parts.is_empty() => {}
        _ => parts.push(stem.to_owned()),
    }
    Some(parts)
}

impl Package {
    /// Of modules with the names and texts of their files.
    fn of(texts: BTreeMap<ModulePath, (String, String)>) -> Self {
        let modules: BTreeSet<ModulePath> = texts.keys().cloned().collect();
        let files = texts.into_iter().map(|(module, (name, text))| {
            let file = read_file(name, &text, &module, &modules);
            (module, file)
        });
        Self { files: files.collect() }
    }

    /// The module that defines what a path names: the deepest one that the path leads to, or the one that it is handed on
    /// from.
    fn home(&self, path: &ModulePath, steps: usize) -> Option<ModulePath> {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.files.contains_key(path.get(..*depth).unwrap_or_default()))?;
        let (module, rest) = path.split_at_checked(depth)?;
        let file = self.files.get(module)?;
        match rest.first().and_then(|name| file.handed_on.get(name)) {
            Some(origin) if steps > 0 => self.home(origin, steps - 1),
            _ => Some(module.to_vec()),
        }
    }

    /// Which modules each module imports from.
    fn imports(&self) -> BTreeMap<&ModulePath, BTreeSet<ModulePath>> {
        let each = self.files.iter().map(|(module, file)| {
            let homes = file.paths.iter().filter_map(|path| self.home(path, 8));
            (module, homes.filter(|home| !module.starts_with(home)).collect())
        });
        each.collect()
    }

    fn circles(&self) -> Vec<String> {
        let imports = self.imports();
        let mut reach: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> = BTreeMap::new();
        for module in self.files.keys() {
            let mut seen = BTreeSet::new();
            let mut next = vec![module];
            while let Some(at) = next.pop() {
                for other in imports.get(at).into_iter().flatten() {
                    if seen.insert(other) {
                        next.push(other);
                    }
                }
            }
            reach.insert(module, seen);
        }
        let reaches =
            |from: &ModulePath, to: &ModulePath| reach.get(from).is_some_and(|seen| seen.contains(to));
        let mut told = BTreeSet::new();
        let mut circles = Vec::new();
        for module in self.files.keys().filter(|module| reaches(module, module)) {
            if told.contains(module) {
                continue;
            }
            let members: Vec<_> =
                self.files.keys().filter(|other| reaches(module, other) && reaches(other, module)).collect();
            told.extend(members.iter().copied());
            let name = |module: &ModulePath| self.files.get(module).map_or("?", |file| file.name.as_str());
            let ties = members.iter().flat_map(|from| {
                let to = members.iter().filter(|to| imports.get(*from).is_some_and(|all| all.contains(**to)));
                to.map(|to| format!("{} uses {}", name(from), name(to))).collect::<Vec<_>>()
            });
            circles.push(format!("a circle: {}", ties.collect::<Vec<_>>().join("; ")));
        }
        circles
    }
}

fn read_file(name: String, text: &str, module: &ModulePath, modules: &BTreeSet<ModulePath>) -> SourceFile {
    let code = code_of(text);
    let mut file = SourceFile { name, paths: BTreeSet::new(), handed_on: BTreeMap::new() };
    let mut rest = code.as_str();
    while let Some(at) = rest.find("use ") {
        let before = rest.get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default().trim();
        rest = rest.get(at + 4..).unwrap_or_default();
        if !(line.is_empty() || line == "pub" || line.starts_with("pub(")) {
            continue;
        }
        let Some((tree, behind)) = rest.split_once(';') else { break };
        rest = behind;
        for path in expand(tree) {
            let Some(full) = resolve(&path, module, modules) else { continue };
            if !line.is_empty()
                && let Some(last) = path.last()
            {
                file.handed_on.insert(last.clone(), full.clone());
            }
            file.paths.insert(full);
        }
    }
    // Paths in the code; of child modules too.
    for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if word.contains("::") {
            let path: Vec<String> = word.split("::").map(str::to_owned).collect();
            file.paths.extend(resolve(&path, module, modules));
        }
    }
    // What is only handed on is no import of the one who hands it on.
    let handed: BTreeSet<ModulePath> = file.handed_on.values().cloned().collect();
    file.paths.retain(|path| !handed.contains(path));
    file
}

/// From `a::{b, c::{d as e}}` to `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    expand_under(&[], tree.trim(), &mut paths);
    paths
}

fn expand_under(prefix: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let Some((before, inner)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        let path: Vec<String> =
            prefix.iter().cloned().chain(name.split("::").map(|part| part.trim().to_owned())).collect();
        paths.push(path.into_iter().filter(|part| !part.is_empty() && part != "self").collect());
        return;
    };
    let prefix: Vec<String> = prefix.iter().cloned().chain(parts(before)).collect();
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut from) = (0_i32, 0);
    for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let one = inner.get(from..at).unwrap_or_default().trim();
                if !one.is_empty() {
                    expand_under(&prefix, one, paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

fn parts(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned)
}

/// The path from the crate's root; `None` where it leads out of the crate.
fn resolve(path: &[String], module: &ModulePath, modules: &BTreeSet<ModulePath>) -> Option<ModulePath> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "super" | "self" => {
            let mut base = module.clone();
            let mut rest = path;
            while let Some((first, others)) = rest.split_first() {
                match first.as_str() {
                    "super" => drop(base.pop()?),
                    "self" => {}
                    _ => break,
                }
                rest = others;
            }
            base.extend(rest.iter().cloned());
            Some(base)
        }
        _ => {
            let child: ModulePath = module.iter().chain([first]).cloned().collect();
            modules.contains(&child).then(|| child.into_iter().chain(rest.iter().cloned()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let texts = files.iter().map(|(path, text)| {
            (module_of(Path::new(path)).unwrap(), ((*path).to_owned(), (*text).to_owned()))
        });
        Package::of(texts.collect()).circles()
    }

    #[test]
    fn files_that_import_each_other_are_told() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "fn f() { super::a::g(); }"),
        ]);
        assert_eq!(found, ["a circle: a.rs uses b.rs; b.rs uses a.rs"]);
        let three = [
            ("a.rs", "use super::b::B;"),
            ("b.rs", "use super::c;"),
            ("c.rs", "pub(crate) fn f(_: crate::a::A) {}"),
        ];
        assert_eq!(circles(&three).len(), 1);
    }

    #[test]
    fn what_is_handed_on_counts_for_the_file_that_defines_it() {
        let files = [
            ("lib.rs", "pub mod a;\npub mod b;"),
            ("a.rs", "mod x;\nmod y;\npub use x::X;\npub(crate) use y::{Y as Z};"),
            ("a/x.rs", "use crate::b::B;"),
            ("a/y.rs", "pub struct Y;"),
            ("b.rs", "use crate::a::Y;"),
        ];
        assert!(circles(&files).is_empty(), "b uses a/y only");
        let mut tied = files;
        tied[4].1 = "use crate::a::{X, Y};";
        assert_eq!(circles(&tied), ["a circle: a/x.rs uses b.rs; b.rs uses a/x.rs"]);
    }

    #[test]
    fn a_part_of_a_module_may_use_it_and_tests_may_use_all() {
        let files = [
            ("a.rs", "mod part;\nuse part::P;\npub(crate) struct A;"),
            ("a/part.rs", "use super::A;\nimpl A {}\n#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}"),
            ("b.rs", "// use crate::a::part::P;\nuse crate::a::A;"),
        ];
        assert!(circles(&files).is_empty());
    }

    #[test]
    fn trees_are_expanded() {
        let told: Vec<String> =
            expand("a::{self, b, c::{d as e, f}}").iter().map(|path| path.join("::")).collect();
        assert_eq!(told, ["a", "a::b", "a::c::d", "a::c::f"]);
    }
}
