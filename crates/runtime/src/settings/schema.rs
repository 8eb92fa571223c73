//! Which keys exist and of what type they are, read off the default settings.
//!
//! Owns the check of every value against the default that stands at its place. It must not know
//! where values come from beyond a label for messages.

use super::error::Fault;
use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

/// The known keys: the serialised defaults, and the paths below which any key is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema<'a> {
    pub(super) defaults: &'a serde_json::Map<String, Json>,
    pub(super) free: &'a [String],
}

/// How a source writes its keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Dotted paths and typed values (files).
    Typed,
    /// Dotted paths; values are text (`--set`).
    Text,
    /// Variables of the environment; values are text.
    Variable,
}

/// One key with its value, as a source gives it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
}

/// What the defaults have at a path.
enum Place<'a> {
    Table,
    Leaf(&'a Json),
    /// Anything may stand here: below a free path, or where the default is null.
    Free,
    Unknown,
}

impl Schema<'_> {
    /// Takes a table of a file apart into the keys that the defaults know, one entry each.
    pub(super) fn flatten(&self, table: Map<String, Value>) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.flatten_into(&mut Vec::new(), table, &mut entries);
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    fn flatten_into(&self, parent: &mut Vec<String>, table: Map<String, Value>, entries: &mut Vec<Entry>) {
        for (key, value) in table {
            let depth = parent.len();
            // `log.format: json` on one line means the same as the nested form.
            parent.extend(key.split('.').map(str::to_owned));
            match (self.place(parent), value.kind) {
                // A key without a value leaves the default.
                (_, ValueKind::Nil) if !matches!(self.place(parent), Place::Unknown) => {}
                (Place::Table, ValueKind::Table(inner)) => self.flatten_into(parent, inner, entries),
                (_, kind) => entries.push(Entry { path: parent.clone(), value: Value::new(None, kind) }),
            }
            parent.truncate(depth);
        }
    }

    /// Checks one entry and gives its value the type of its default.
    pub(super) fn check(&self, entry: Entry, style: Style, origin: &str) -> Result<Entry, Fault> {
        let key = written(&entry.path, style);
        let expected = match self.place(&entry.path) {
            Place::Unknown => {
                return Err(Fault::UnknownKey {
                    nearest: self.nearest(&entry.path, style),
                    key,
                    origin: origin.to_owned(),
                });
            }
            Place::Free => return Ok(entry),
            Place::Table => return Err(wrong(&key, origin, &entry.value, "a table of keys")),
            Place::Leaf(default) => default,
        };
        let kind = convert(&entry.value.kind, expected, style)
            .map_err(|expected| wrong(&key, origin, &entry.value, expected))?;
        Ok(Entry { path: entry.path, value: Value::new(Some(&origin.to_owned()), kind) })
    }

    fn place(&self, path: &[String]) -> Place<'_> {
        let mut table = self.defaults;
        for (depth, key) in path.iter().enumerate() {
            let reached = path.get(..=depth).unwrap_or_default();
            if self.is_free(reached) {
                return Place::Free;
            }
            let last = depth + 1 == path.len();
            match table.get(key) {
                Some(Json::Null) => return Place::Free,
                Some(Json::Object(_)) if last => return Place::Table,
                Some(Json::Object(inner)) => table = inner,
                Some(leaf) if last => return Place::Leaf(leaf),
                Some(_) | None => return Place::Unknown,
            }
        }
        Place::Table
    }

    fn is_free(&self, path: &[String]) -> bool {
        self.free.iter().any(|free| free.split('.').eq(path.iter().map(String::as_str)))
    }

    /// The known key that is written most like the given one, if one is near enough to be meant.
    fn nearest(&self, path: &[String], style: Style) -> Option<String> {
        let asked = written(path, style);
        let mut known = Vec::new();
        collect(self.defaults, &mut Vec::new(), &mut known);
        known
            .iter()
            .map(|path| written(path, style))
            .map(|name| (strsim::damerau_levenshtein(&asked, &name), name))
            .min()
            .filter(|(distance, _)| *distance <= (asked.chars().count() / 3).max(2))
            .map(|(_, name)| name)
    }
}

/// A path as its source writes it.
pub(super) fn written(path: &[String], style: Style) -> String {
    match style {
        Style::Typed | Style::Text => path.join("."),
        Style::Variable => format!("{}_{}", super::ENV_PREFIX, path.join("__").to_uppercase()),
    }
}

fn collect(table: &serde_json::Map<String, Json>, parent: &mut Vec<String>, known: &mut Vec<Vec<String>>) {
    for (key, value) in table {
        parent.push(key.clone());
        known.push(parent.clone());
        if let Json::Object(inner) = value {
            collect(inner, parent, known);
        }
        parent.pop();
    }
}

/// The keys that hold a value, with their defaults, in the order of the alphabet.
pub(super) fn leaves(defaults: &serde_json::Map<String, Json>) -> Vec<(Vec<String>, &Json)> {
    let mut all = Vec::new();
    collect(defaults, &mut Vec::new(), &mut all);
    let leaf = |path: Vec<String>| {
        let (last, parents) = path.split_last()?;
        let table = parents.iter().try_fold(defaults, |table, key| table.get(key)?.as_object())?;
        let value = table.get(last)?;
        (!value.is_object()).then_some((path, value))
    };
    all.into_iter().filter_map(leaf).collect()
}

fn wrong(key: &str, origin: &str, value: &Value, expected: &str) -> Fault {
    let shown = match &value.kind {
        ValueKind::Table(_) => "a table of keys".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        kind => format!("`{kind}`"),
    };
    Fault::wrong_type(key, origin, &shown, expected)
}

/// The value in the type of its default, or what was expected instead.
fn convert(value: &ValueKind, default: &Json, style: Style) -> Result<ValueKind, &'static str> {
    match default {
        Json::Bool(_) => as_bool(value).ok_or("true or false"),
        Json::Number(number) if number.is_f64() => as_float(value).ok_or("a number"),
        Json::Number(_) => as_integer(value).ok_or("a whole number"),
        Json::String(_) => as_text(value).ok_or("text"),
        Json::Array(_) => as_list(value, style),
        // Neither is a leaf; the caller has dealt with them.
        Json::Null | Json::Object(_) => Ok(value.clone()),
    }
}

fn as_bool(value: &ValueKind) -> Option<ValueKind> {
    match value {
        ValueKind::Boolean(_) => Some(value.clone()),
        ValueKind::String(text) => text.trim().parse().ok().map(ValueKind::Boolean),
        _ => None,
    }
}

fn as_integer(value: &ValueKind) -> Option<ValueKind> {
    match value {
        ValueKind::I64(_) | ValueKind::U64(_) => Some(value.clone()),
        ValueKind::String(text) => {
            let text = text.trim();
            text.parse().map(ValueKind::I64).or_else(|_| text.parse().map(ValueKind::U64)).ok()
        }
        _ => None,
    }
}

fn as_float(value: &ValueKind) -> Option<ValueKind> {
    match value {
        ValueKind::Float(_) | ValueKind::I64(_) | ValueKind::U64(_) => Some(value.clone()),
        ValueKind::String(text) => text.trim().parse().ok().map(ValueKind::Float),
        _ => None,
    }
}

/// Files may write a name that looks like a number or a truth value without quotes.
fn as_text(value: &ValueKind) -> Option<ValueKind> {
    match value {
        ValueKind::String(_) => Some(value.clone()),
        ValueKind::Boolean(_) | ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::Float(_) => {
            Some(ValueKind::String(value.to_string()))
        }
        _ => None,
    }
}

fn as_list(value: &ValueKind, style: Style) -> Result<ValueKind, &'static str> {
    match (value, style) {
        (ValueKind::Array(_), _) => Ok(value.clone()),
        (ValueKind::String(text), Style::Text | Style::Variable) => Ok(ValueKind::Array(
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Value::from).collect(),
        )),
        (_, Style::Typed) => Err("a list"),
        (_, Style::Text | Style::Variable) => Err("a list with commas"),
    }
}
