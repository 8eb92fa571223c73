//! Filters of lists (AIP-160), the part that lists of this API need: `field = "value"`, joined by `AND`.
//!
//! A value may end in `*`, which stands for any rest: `subject = "orders/*"`.

use crate::error::ConvertError;

/// Longest filter, in bytes.
const BYTES_MAX: usize = 2_000;

/// A filter that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    /// The value is only the beginning.
    prefix: bool,
}

impl Filter {
    /// Reads a filter over these fields; the empty one takes everything.
    pub fn parse(text: &str, fields: &[&str]) -> Result<Self, ConvertError> {
        let fault = |problem: String| ConvertError::new("filter", problem);
        if text.len() > BYTES_MAX {
            return Err(fault(format!("must have at most {BYTES_MAX} bytes")));
        }
        let mut terms = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (field, after) = rest
                .split_once('=')
                .ok_or_else(|| fault(format!("{rest:?} is no comparison: write `field = \"value\"`")))?;
            let field = field.trim();
            if !fields.contains(&field) {
                return Err(fault(format!("{field:?} can't be filtered by, only {}", fields.join(", "))));
            }
            let (value, prefix, after) = value(after.trim_start()).map_err(fault)?;
            terms.push(Term { field: field.to_owned(), value, prefix });
            rest = match after.trim_start() {
                "" => "",
                more => more
                    .strip_prefix("AND ")
                    .map(str::trim_start)
                    .filter(|more| !more.is_empty())
                    .ok_or_else(|| {
                        fault(format!("{more:?} is not understood: comparisons are joined by AND"))
                    })?,
            };
        }
        Ok(Self(terms))
    }

    /// Does something with these values pass? `value_of` gives the value of a field.
    pub fn takes<'a>(&self, value_of: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|term| {
            let value = value_of(&term.field);
            if term.prefix { value.starts_with(&term.value) } else { value == term.value }
        })
    }
}

/// A value, quoted or bare, and what follows it.
fn value(text: &str) -> Result<(String, bool, &str), String> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.is_empty() || word.contains(['"', '=']) {
            return Err(format!("{text:?} has no value: write it in double quotes"));
        }
        let value = word.strip_suffix('*');
        return Ok((value.unwrap_or(word).to_owned(), value.is_some(), rest));
    };
    let mut value = String::new();
    // A `*` at the end that was not escaped.
    let mut star = false;
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let rest = quoted.get(at + 1..).unwrap_or_default();
                if star {
                    value.pop();
                }
                return Ok((value, star, rest));
            }
            '\\' => {
                let (_, escaped) = characters.next().ok_or("a quoted value ends in a backslash")?;
                value.push(escaped);
                star = false;
            }
            other => {
                value.push(other);
                star = other == '*';
            }
        }
    }
    Err(format!("\"{quoted} has no closing quote"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filter: &str) -> Result<bool, String> {
        let filter = Filter::parse(filter, &["subject", "reason"]).map_err(|fault| fault.to_string())?;
        Ok(filter.takes(|field| if field == "subject" { "orders/3" } else { "RETENTION_OVERRUN" }))
    }

    #[test]
    fn comparisons_are_joined_and_may_end_in_a_star() {
        for (filter, expected) in [
            ("", true),
            ("  ", true),
            (r#"subject = "orders/3""#, true),
            (r#"subject="orders/3""#, true),
            ("subject = orders/3", true),
            (r#"subject = "orders/30""#, false),
            (r#"subject = "orders""#, false),
            (r#"subject = "orders/*""#, true),
            ("subject = orders/*", true),
            (r#"subject = "order\s/3""#, true),
            (r#"subject = "orders/\*""#, false),
            (r#"subject = "orders/3" AND reason = "RETENTION_OVERRUN""#, true),
            (r#"subject = "orders/3" AND reason = TRUNCATED"#, false),
            (r#"reason = "*""#, true),
        ] {
            assert_eq!(passes(filter), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (filter, problem) in [
            ("subject", "is no comparison"),
            (r#"message = "x""#, "can't be filtered by, only subject, reason"),
            (r#"subject != "x""#, "can't be filtered by"),
            ("subject = ", "has no value"),
            (r#"subject = "x"#, "no closing quote"),
            (r#"subject = "x\"#, "ends in a backslash"),
            (r#"subject = "x" OR subject = "y""#, "joined by AND"),
            (r#"subject = "x" AND "#, "joined by AND"),
        ] {
            let said = passes(filter).unwrap_err();
            assert!(said.contains(problem), "{filter}: {said}");
        }
        assert!(passes(&" ".repeat(3_000)).is_err());
    }
}
