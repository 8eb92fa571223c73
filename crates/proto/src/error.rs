//! What is wrong with a message, field by field.
//!
//! Owns the shapes; how they become gRPC statuses is `status`'s business.

use std::fmt;

/// One field that can't be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", display(.field, .problem))]
pub struct ConvertError {
    /// Path of the field, e.g. `flow.topics.include[1]`; empty for the message as a whole.
    pub field: String,
    /// What is wrong and what to do. Never holds the value of a secret.
    pub problem: String,
}

fn display(field: &str, problem: &str) -> String {
    if field.is_empty() { problem.to_owned() } else { format!("`{field}`: {problem}") }
}

impl ConvertError {
    /// A fault of a field.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// The same fault, seen from the message that holds the one at fault in its field `outer`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

/// Faults of one request, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations(Vec<ConvertError>);

impl Violations {
    /// The faults, in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, ConvertError> {
        self.0.iter()
    }

    /// The fields at fault, in the order in which they were found.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|fault| fault.field.as_str())
    }
}

impl From<ConvertError> for Violations {
    fn from(fault: ConvertError) -> Self {
        Self(vec![fault])
    }
}

impl IntoIterator for Violations {
    type Item = ConvertError;
    type IntoIter = std::vec::IntoIter<ConvertError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a ConvertError;
    type IntoIter = std::slice::Iter<'a, ConvertError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// Collects faults while a request is read, so that one answer names them all.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<ConvertError>);

impl Faults {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault.
    pub fn push(&mut self, field: impl Into<String>, problem: impl fmt::Display) {
        self.0.push(ConvertError::new(field, problem));
    }

    /// The value, or `None` with the faults kept.
    pub fn keep<T>(&mut self, result: Result<T, impl Into<Violations>>) -> Option<T> {
        result.map_err(|faults| self.0.extend(faults.into())).ok()
    }

    /// Was nothing wrong so far?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the reading: `Ok` if nothing was wrong.
    pub fn finish(self) -> Result<(), Violations> {
        if self.0.is_empty() { Ok(()) } else { Err(Violations(self.0)) }
    }

    /// Ends the reading of one value: `Ok` if there is one and nothing was wrong.
    pub fn finish_with<T>(mut self, value: Option<T>) -> Result<T, Violations> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            // What has no value has a fault; but an answer without any would look like a success.
            None if self.0.is_empty() => {
                self.push("", "the request can't be read");
                Err(Violations(self.0))
            }
            _ => Err(Violations(self.0)),
        }
    }
}
