//! Layered settings: flags before environment before file before defaults.
//!
//! Owns how the layers are read, checked and merged. It must not know any key of any service: the
//! serialised defaults say which keys exist and of what type they are. Invariant: a key or
//! variable that nobody reads is refused, never ignored, and one answer lists every fault.

mod error;
mod schema;

use crate::env::Env;
use config::{Config, ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use schema::{Entry, Schema, Style};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::{Fault, SettingsError};

/// What the variables of settings begin with, before `_`.
pub const ENV_PREFIX: &str = "MIRRORMESH";

/// Names the settings file; read by the command line, so no setting itself.
pub const ENV_CONFIG: &str = "MIRRORMESH_CONFIG";

/// Settings are written by people; anything larger is the wrong file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The layers that settings are made from.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The lowest layer, and the list of known keys with their types. A key whose default is null
    /// takes any value, checked only when the settings are built.
    pub defaults: Json,
    /// A YAML, TOML or JSON file, told apart by its extension.
    pub file: Option<PathBuf>,
    /// The environment: `MIRRORMESH_DATA_DIR` is `data_dir`, `MIRRORMESH_LOG__FORMAT` is
    /// `log.format`; lists are separated by commas; an empty variable is not set.
    pub env: Env,
    /// Key paths with dots and their values, the last one winning.
    pub flags: Vec<(String, String)>,
    /// Key paths below which any key is allowed (maps with keys of the user's choice, parts of
    /// the file that something else reads).
    pub free: Vec<String>,
}

impl Layers {
    /// Layers that hold nothing but defaults.
    pub fn new<T: Serialize>(defaults: &T) -> Result<Self, SettingsError> {
        let defaults = serde_json::to_value(defaults)
            .map_err(|error| SettingsError::Defaults { message: error.to_string() })?;
        Ok(Self { defaults, ..Self::default() })
    }
}

/// One key as it is described to users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its path with dots.
    pub path: String,
    /// Its variable of the environment.
    pub variable: String,
    /// Its default, as a settings file has it.
    pub default: String,
}

/// The keys that these defaults have.
pub fn keys<T: Serialize>(defaults: &T) -> Result<Vec<Key>, SettingsError> {
    let layers = Layers::new(defaults)?;
    let Json::Object(table) = &layers.defaults else {
        return Err(SettingsError::Defaults { message: "they are not a table of keys".to_owned() });
    };
    let key = |(path, default): (Vec<String>, &Json)| Key {
        path: schema::written(&path, Style::Text),
        variable: schema::written(&path, Style::Variable),
        default: default.to_string(),
    };
    Ok(schema::leaves(table).into_iter().map(key).collect())
}

/// Reads, checks and merges the layers.
pub fn load<T: DeserializeOwned>(layers: &Layers) -> Result<T, SettingsError> {
    let Json::Object(defaults) = &layers.defaults else {
        return Err(SettingsError::Defaults { message: "they are not a table of keys".to_owned() });
    };
    let schema = Schema { defaults, free: &layers.free };
    let mut faults = Vec::new();
    let mut merged = Config::builder().add_source(default_layer(defaults));
    if let Some(path) = &layers.file {
        let entries = schema.flatten(read_file(path)?);
        merged = merged.add_source(checked(
            schema,
            entries,
            Style::Typed,
            &path.display().to_string(),
            &mut faults,
        ));
    }
    let variables = read_env(&layers.env)?;
    merged = merged.add_source(checked(schema, variables, Style::Variable, "the environment", &mut faults));
    let flags = layers.flags.iter().map(|(key, value)| text_entry(key, value)).collect();
    merged = merged.add_source(checked(schema, flags, Style::Text, "--set", &mut faults));
    if !faults.is_empty() {
        return Err(SettingsError::Refused { faults });
    }
    merged.build().and_then(Config::try_deserialize).map_err(refused)
}

/// One layer after its check, as a source of the config crate.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

impl Layer {
    fn insert(&mut self, path: &[String], value: Value) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut table = &mut self.0;
        for key in parents {
            let next = table.entry(key.clone()).or_insert_with(empty_table);
            if !matches!(next.kind, ValueKind::Table(_)) {
                *next = empty_table();
            }
            let ValueKind::Table(inner) = &mut next.kind else { return };
            table = inner;
        }
        table.insert(last.clone(), value);
    }
}

fn empty_table() -> Value {
    Value::new(None, ValueKind::Table(Map::new()))
}

fn checked(
    schema: Schema<'_>,
    entries: Vec<Entry>,
    style: Style,
    origin: &str,
    faults: &mut Vec<Fault>,
) -> Layer {
    let mut layer = Layer::default();
    for entry in entries {
        match schema.check(entry, style, origin) {
            Ok(entry) => layer.insert(&entry.path, entry.value),
            Err(fault) => faults.push(fault),
        }
    }
    layer
}

fn default_layer(defaults: &serde_json::Map<String, Json>) -> Layer {
    Layer(defaults.iter().map(|(key, value)| (key.clone(), as_value(value))).collect())
}

/// By hand, because the config crate's own serializer loses empty tables.
fn as_value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => ValueKind::Boolean(*value),
        Json::Number(value) => match (value.as_i64(), value.as_u64()) {
            (Some(value), _) => ValueKind::I64(value),
            (None, Some(value)) => ValueKind::U64(value),
            // Without the feature for arbitrary precision every other number is a float.
            (None, None) => value.as_f64().map_or(ValueKind::Nil, ValueKind::Float),
        },
        Json::String(value) => ValueKind::String(value.clone()),
        Json::Array(values) => ValueKind::Array(values.iter().map(as_value).collect()),
        Json::Object(table) => {
            ValueKind::Table(table.iter().map(|(key, value)| (key.clone(), as_value(value))).collect())
        }
    };
    Value::new(None, kind)
}

fn read_file(path: &Path) -> Result<Map<String, Value>, SettingsError> {
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => FileFormat::Yaml,
        Some("toml") => FileFormat::Toml,
        Some("json") => FileFormat::Json,
        _ => return Err(SettingsError::Format { path: path.to_owned() }),
    };
    let read = |source| SettingsError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(read)?;
    // One byte more than allowed tells a file that is too large from one that just fits.
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(SettingsError::TooLarge { path: path.to_owned(), limit_bytes: FILE_BYTES_MAX });
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        // The parsers refuse an empty YAML document; a file of comments only is a fair start.
        return Ok(Map::new());
    }
    File::from_str(&text, format)
        .collect()
        .map_err(|error| SettingsError::Parse { path: path.to_owned(), message: error.to_string() })
}

fn read_env(env: &Env) -> Result<Vec<Entry>, SettingsError> {
    let variables = env
        .iter()
        .filter(|(name, _)| name.starts_with(ENV_PREFIX) && *name != ENV_CONFIG)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // Without `prefix_separator` the nested separator would also follow the prefix.
    let collected = Environment::with_prefix(ENV_PREFIX)
        .prefix_separator("_")
        .separator("__")
        .ignore_empty(true)
        .source(Some(variables))
        .collect()
        .map_err(refused)?;
    let mut entries: Vec<_> = collected
        .into_iter()
        .map(|(key, value)| Entry { path: key.split('.').map(str::to_owned).collect(), value })
        .collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn text_entry(key: &str, value: &str) -> Entry {
    Entry {
        path: key.split('.').map(str::to_owned).collect(),
        value: Value::new(None, ValueKind::String(value.to_owned())),
    }
}

/// What remains wrong after every value has the type of its default: ranges, variants, formats.
fn refused(error: ConfigError) -> SettingsError {
    let fault = match error {
        ConfigError::Type { origin, unexpected, expected, key } => Fault::wrong_type(
            &key.unwrap_or_else(|| "?".to_owned()),
            &origin.unwrap_or_else(|| "the defaults".to_owned()),
            &unexpected.to_string(),
            expected,
        ),
        other => Fault::Invalid { message: other.to_string() },
    };
    SettingsError::Refused { faults: vec![fault] }
}

#[cfg(test)]
mod tests;
