//! Rules for the .proto files, which are the product's contract: all is commented, nothing is used twice.
//!
//! Owns the rules; the grammar is [`crate::proto_parse`]'s. They are a part of buf's STANDARD and COMMENTS; where a
//! `buf` is on the `PATH` it checks the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::proto_parse::{Enum, File, Message, Name, Numbered, Reserved, Service, parse};

/// Protocol Buffers keeps these to itself.
const FORBIDDEN_NUMBERS: std::ops::RangeInclusive<i64> = 19_000..=19_999;

/// What was looked at and what was found.
#[derive(Debug)]
pub(crate) struct Lint {
    pub(crate) files: usize,
    pub(crate) violations: Vec<String>,
}

/// Checks every .proto file below `proto`.
pub(crate) fn check(proto: &Path) -> Result<Lint> {
    let mut files = Vec::new();
    list(proto, &mut files)?;
    files.sort();
    if files.is_empty() {
        bail!("{} holds no .proto file", proto.display());
    }
    let mut violations = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        violations.extend(check_file(path.strip_prefix(proto).unwrap_or(path), &text));
    }
    Ok(Lint { files: files.len(), violations })
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// `path` is relative to the directory that imports are relative to.
fn check_file(path: &Path, text: &str) -> Vec<String> {
    match parse(text) {
        Ok(file) => {
            let mut rules = Rules { path, found: Vec::new() };
            rules.file(&file);
            rules.found
        }
        Err(error) => vec![format!("{}: cannot be read: {error:#}", path.display())],
    }
}

struct Rules<'a> {
    path: &'a Path,
    found: Vec<String>,
}

impl Rules<'_> {
    fn say(&mut self, line: usize, what: &str) {
        self.found.push(format!("{}:{line}: {what}", self.path.display()));
    }

    fn file(&mut self, file: &File) {
        if file.syntax.as_deref() != Some("proto3") {
            self.say(1, "the syntax is not \"proto3\"");
        }
        let directory = self.path.parent().map(|parent| parent.iter().map(|part| part.to_string_lossy()));
        let wanted = directory.map(|parts| parts.collect::<Vec<_>>().join(".")).unwrap_or_default();
        if file.package.as_deref() != Some(wanted.as_str()) {
            let package = file.package.as_deref().unwrap_or("none");
            self.say(1, &format!("the package is {package}, but its directory says {wanted}"));
        }
        for message in &file.messages {
            self.message(message);
        }
        for found in &file.enums {
            self.enumeration(found);
        }
        for service in &file.services {
            self.service(service);
        }
    }

    fn commented(&mut self, what: &str, name: &Name) {
        if !name.commented {
            self.say(name.line, &format!("{what} {} has no comment above it", name.text));
        }
    }

    fn message(&mut self, message: &Message) {
        self.commented("message", &message.name);
        for oneof in &message.oneofs {
            self.commented("oneof", oneof);
            self.lower_snake("oneof", oneof);
        }
        for field in &message.fields {
            self.commented("field", &field.name);
            self.lower_snake("field", &field.name);
            if field.number < 1 || FORBIDDEN_NUMBERS.contains(&field.number) {
                self.say(
                    field.name.line,
                    &format!("field {} may not have number {}", field.name.text, field.number),
                );
            }
        }
        self.unique("field", &message.fields, &message.reserved);
        for inner in &message.messages {
            self.message(inner);
        }
        for inner in &message.enums {
            self.enumeration(inner);
        }
    }

    fn enumeration(&mut self, found: &Enum) {
        self.commented("enum", &found.name);
        for value in &found.values {
            self.commented("enum value", &value.name);
        }
        match found.values.first() {
            Some(zero) if zero.number == 0 && zero.name.text.ends_with("_UNSPECIFIED") => {}
            _ => self.say(
                found.name.line,
                &format!("enum {} does not begin with 0, named …_UNSPECIFIED", found.name.text),
            ),
        }
        self.unique("enum value", &found.values, &found.reserved);
    }

    fn service(&mut self, service: &Service) {
        self.commented("service", &service.name);
        if !service.name.text.ends_with("Service") {
            self.say(service.name.line, &format!("service {} does not end in Service", service.name.text));
        }
        for rpc in &service.rpcs {
            self.commented("rpc", rpc);
        }
    }

    fn lower_snake(&mut self, what: &str, name: &Name) {
        let sound = name.text.starts_with(|c: char| c.is_ascii_lowercase())
            && name.text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !name.text.contains("__")
            && !name.text.ends_with('_');
        if !sound {
            self.say(name.line, &format!("{what} {} is not lower_snake_case", name.text));
        }
    }

    fn unique(&mut self, what: &str, items: &[Numbered], reserved: &Reserved) {
        let mut numbers = BTreeMap::new();
        let mut names = BTreeMap::new();
        for Numbered { name, number } in items {
            if let Some(other) = numbers.insert(number, &name.text) {
                self.say(name.line, &format!("{what} {} has number {number} of {other}", name.text));
            }
            if names.insert(&name.text, number).is_some() {
                self.say(name.line, &format!("{what} {} is there twice", name.text));
            }
            if reserved.ranges.iter().any(|(first, last)| (first..=last).contains(&number)) {
                self.say(name.line, &format!("{what} {} has number {number}, which is reserved", name.text));
            }
            if reserved.names.contains(&name.text) {
                self.say(name.line, &format!("{what} {} is a reserved name", name.text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
syntax = "proto3";

// The package.
package a.v1;

import "google/protobuf/timestamp.proto";

option java_package = "a";

/* A message
   with a long comment. */
message Thing {
  reserved 4, 6 to 8, 100 to max;
  reserved "old";
  // Its name.
  string name = 1 [deprecated = true, json_name = "n"]; // trailing
  // Some.
  repeated google.protobuf.Timestamp times = 2;
  // A map.
  map<string, a.v1.Thing> inner = 3;
  // One of these.
  oneof kind {
    // This.
    int64 first_kind = 5;
    // That.
    optional_thing.Other other = 9;
  }
  // Maybe.
  optional bool maybe = 10;
  // Inside.
  message Inner {}
  // States.
  enum State {
    reserved 5;
    // None.
    STATE_UNSPECIFIED = 0;
    // Negative.
    STATE_BELOW = -1;
  }
}

// Calls.
service ThingService {
  // One.
  rpc Get(Thing) returns (stream Thing);
  // Two.
  rpc Put(Thing) returns (Thing) {
    option (google.api.http) = { put: "/v1" };
  }
}
"#;

    fn found(text: &str) -> Vec<String> {
        check_file(Path::new("a/v1/thing.proto"), text)
    }

    #[test]
    fn a_sound_file_passes() {
        assert_eq!(found(SOUND), Vec::<String>::new());
    }

    /// Each edit of the sound file breaks exactly one rule.
    fn broken(from: &str, to: &str, words: &str) {
        assert!(SOUND.contains(from), "{from}");
        let found = found(&SOUND.replacen(from, to, 1));
        assert_eq!(found.len(), 1, "{from} -> {to}: {found:?}");
        assert!(found[0].contains(words), "{found:?}");
    }

    #[test]
    fn everything_needs_a_comment() {
        for (comment, what) in [
            ("  // Its name.\n", "field name"),
            ("  // Some.\n", "field times"),
            ("  // A map.\n", "field inner"),
            ("  // One of these.\n", "oneof kind"),
            ("    // This.\n", "field first_kind"),
            ("  // Maybe.\n", "field maybe"),
            ("  // Inside.\n", "message Inner"),
            ("  // States.\n", "enum State"),
            ("    // Negative.\n", "enum value STATE_BELOW"),
            ("// Calls.\n", "service ThingService"),
            ("  // One.\n", "rpc Get"),
        ] {
            broken(comment, "", &format!("{what} has no comment"));
            // A comment that a blank line separates is not the element's.
            broken(comment, &format!("{comment}\n"), &format!("{what} has no comment"));
        }
        broken("/* A message\n   with a long comment. */\n", "", "message Thing has no comment");
    }

    #[test]
    fn a_trailing_comment_leads_nothing() {
        broken("; // trailing\n  // Some.\n", "; // trailing\n", "field times has no comment");
    }

    #[test]
    fn names_and_numbers_follow_the_rules() {
        broken("package a.v1", "package b.v1", "package is b.v1");
        broken("\"proto3\"", "\"proto2\"", "syntax");
        broken("string name = 1", "string theName = 1", "lower_snake");
        broken("string name = 1", "string name_ = 1", "lower_snake");
        broken("ThingService", "Things", "does not end in Service");
        broken("STATE_UNSPECIFIED = 0", "STATE_NONE = 0", "UNSPECIFIED");
        broken("STATE_UNSPECIFIED = 0", "STATE_UNSPECIFIED = 1", "UNSPECIFIED");
        broken("string name = 1", "string name = 2", "number 2");
        broken("first_kind = 5", "first_kind = 2", "number 2");
        broken("first_kind = 5", "first_kind = 4", "reserved");
        broken("first_kind = 5", "first_kind = 7", "reserved");
        broken("first_kind = 5", "first_kind = 5000", "reserved");
        broken("first_kind", "old", "reserved name");
        broken("first_kind", "name", "twice");
        broken("STATE_BELOW = -1", "STATE_BELOW = 5", "reserved");
        broken("STATE_BELOW = -1", "STATE_BELOW = 0", "number 0");
        broken("string name = 1", "string name = 0", "may not have number 0");
    }

    #[test]
    fn what_cannot_be_read_is_no_pass() {
        for text in
            ["message", "message A {", "syntax = \"proto3", "mess age;", "/* ", "service S { foo }", "}"]
        {
            let found = found(text);
            assert!(found[0].contains("cannot be read"), "{text}: {found:?}");
        }
        assert!(check(Path::new("no/such/directory")).is_err());
    }
}
