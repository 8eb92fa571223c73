//! What can be wrong with settings, in words an operator can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Longest part of a refused value that a message repeats, in characters.
const VALUE_CHARS_SHOWN: usize = 80;

/// Why settings could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read.
    #[error("cannot read the settings file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than settings can be.
    #[error("the settings file {} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit that it passed.
        limit_bytes: u64,
    },
    /// The file's name does not say how it is written.
    #[error("cannot tell the format of the settings file {}: name it .yaml, .yml, .toml or .json", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The file does not parse.
    #[error("the settings file {} does not parse: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line where it has one.
        message: String,
    },
    /// Keys or values were refused; all of them are listed.
    #[error("{}", list(faults))]
    Refused {
        /// Every fault found, at least one.
        faults: Vec<Fault>,
    },
    /// The defaults are not a table of keys: an error of the program, not of its user.
    #[error("the default settings cannot be used: {message}")]
    Defaults {
        /// What is wrong with them.
        message: String,
    },
}

/// One refused key or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No such key.
    UnknownKey {
        /// The key as its source writes it: a dotted path, or a variable's name.
        key: String,
        /// Where it was found.
        origin: String,
        /// The nearest known key, written the same way.
        nearest: Option<String>,
    },
    /// A value of another type than the key has.
    WrongType {
        /// The key as its source writes it.
        key: String,
        /// Where it was found.
        origin: String,
        /// The value in quotes, shortened, or what kind of value it is.
        value: String,
        /// What belongs there.
        expected: String,
    },
    /// A value of the right type that means nothing for this key.
    Invalid {
        /// What is wrong, with the key.
        message: String,
    },
}

impl Fault {
    pub(super) fn wrong_type(key: &str, origin: &str, value: &str, expected: &str) -> Self {
        Self::WrongType {
            key: key.to_owned(),
            origin: origin.to_owned(),
            value: value.chars().take(VALUE_CHARS_SHOWN).collect(),
            expected: expected.to_owned(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, origin, nearest: Some(nearest) } => {
                write!(f, "unknown key `{key}` in {origin}: did you mean `{nearest}`?")
            }
            Self::UnknownKey { key, origin, nearest: None } => write!(f, "unknown key `{key}` in {origin}"),
            Self::WrongType { key, origin, value, expected } => {
                write!(f, "key `{key}` in {origin} is {value}, expected {expected}")
            }
            Self::Invalid { message } => f.write_str(message),
        }
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
