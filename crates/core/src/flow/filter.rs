//! Include and exclude lists of patterns that match whole names.
//!
//! Owns compilation and limits; the engine is linear in time, so no pattern can stall a worker.

use regex::{RegexSet, RegexSetBuilder};

/// How large a compiled list may get, in bytes.
const COMPILED_BYTES_MAX: usize = 4 << 20;

/// A pattern that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?} (number {index}) does not compile: {problem}")]
pub struct PatternError {
    /// Its place in the list, from 0.
    pub index: usize,
    /// The pattern.
    pub pattern: String,
    /// What the compiler says, in one line.
    pub problem: String,
}

/// Selects names: at least one include pattern matches the whole name, and no exclude pattern does.
#[derive(Debug, Clone)]
pub struct NameFilter {
    include: RegexSet,
    exclude: RegexSet,
    exclude_patterns: Vec<String>,
}

impl NameFilter {
    /// Compiles both lists. An empty include list matches nothing: callers fill in the default before.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        Ok(Self {
            include: compile(include)?,
            exclude: compile(exclude)?,
            exclude_patterns: exclude.to_vec(),
        })
    }

    /// Is the name selected?
    pub fn matches(&self, name: &str) -> bool {
        self.includes(name) && !self.exclude.is_match(name)
    }

    /// Does an include pattern match the name?
    pub fn includes(&self, name: &str) -> bool {
        self.include.is_match(name)
    }

    /// The first exclude pattern that matches the name.
    pub fn excluded_by(&self, name: &str) -> Option<&str> {
        let first = self.exclude.matches(name).iter().next()?;
        self.exclude_patterns.get(first).map(String::as_str)
    }
}

/// Compiles one list, and says which pattern is at fault.
pub(crate) fn compile(patterns: &[String]) -> Result<RegexSet, PatternError> {
    let whole = |pattern: &String| format!("^(?:{pattern})$");
    let build = |patterns: Vec<String>| RegexSetBuilder::new(patterns).size_limit(COMPILED_BYTES_MAX).build();
    for (index, pattern) in patterns.iter().enumerate() {
        // The bare pattern must stand alone: `a)(b` would compile inside the group.
        let alone = build(vec![pattern.clone()]).and_then(|_| build(vec![whole(pattern)]));
        if let Err(error) = alone {
            let text = error.to_string();
            let problem = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            return Err(PatternError { index, pattern: pattern.clone(), problem });
        }
    }
    build(patterns.iter().map(whole).collect()).map_err(|error| PatternError {
        index: 0,
        pattern: patterns.join(","),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> NameFilter {
        let own = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        NameFilter::new(&own(include), &own(exclude)).unwrap()
    }

    #[test]
    fn whole_names_match_and_exclusion_wins() {
        let f = filter(&["orders.*", "a|b"], &["orders-old"]);
        assert!(f.matches("orders"));
        assert!(f.matches("orders-new"));
        assert!(!f.matches("orders-old"));
        assert!(!f.matches("my-orders"));
        assert!(f.matches("a") && f.matches("b") && !f.matches("ab"));
        assert!(!filter(&[], &[]).matches("x"));
        assert!(f.includes("orders-old") && !f.includes("my-orders"));
        assert_eq!(filter(&[".*"], &["a", "o.*", "orders"]).excluded_by("orders"), Some("o.*"));
        assert_eq!(f.excluded_by("orders"), None);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = NameFilter::new(&["ok".into(), "or(ders".into()], &[]).unwrap_err();
        assert_eq!((error.index, error.pattern.as_str()), (1, "or(ders"));
        assert!(error.problem.contains("unclosed"), "{}", error.problem);
        assert!(NameFilter::new(&["a)(b".into()], &[]).is_err());
    }
}
