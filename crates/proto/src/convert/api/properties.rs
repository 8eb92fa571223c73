//! Properties of Kafka clients, and which of them are secrets.
//!
//! Secrets never enter the mesh: users name where a worker finds them (`${env:NAME}`, `${file:/path:key}`), as Kafka's
//! config providers do (KIP-297, `EnvVarConfigProvider`, `FileConfigProvider`). No message repeats a value.

use std::collections::BTreeMap;

use crate::error::Faults;

/// Properties of one cluster at most.
const PROPERTIES_MAX: usize = 200;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Longest value, in bytes: certificate chains are given inline.
const VALUE_BYTES_MAX: usize = 32 * 1024;

/// How names of properties that hold a secret end, in the Java client and in librdkafka; in front may stand further
/// words, such as `consumer.` or a listener's name.
const SECRETS: [&str; 14] = [
    "basic.auth.credentials",
    "basic.auth.user.info",
    "passphrase",
    "password",
    "private.key",
    "private.key.pem",
    "sasl.jaas.config",
    "sasl.oauthbearer.config",
    "secret",
    "secret.key",
    "ssl.key",
    "ssl.key.pem",
    "ssl.keystore.key",
    "token",
];

/// Does a property of this name hold a secret?
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = |ending: &str| {
        name.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '_', '-']))
    };
    SECRETS.into_iter().any(ends)
}

/// Is the whole value a reference to a secret: `${env:NAME}` or `${file:/path:key}`?
pub fn is_reference(value: &str) -> bool {
    let Some(inner) = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else { return false };
    if inner.chars().any(|c| c.is_control() || matches!(c, '{' | '}')) {
        return false;
    }
    match inner.split_once(':') {
        Some(("env", name)) => is_environment_name(name),
        Some(("file", place)) => place
            .rsplit_once(':')
            .is_some_and(|(path, key)| path.len() > 1 && path.starts_with('/') && !key.is_empty()),
        _ => false,
    }
}

fn is_environment_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Checks all properties of a cluster.
pub(super) fn check(properties: &BTreeMap<String, String>, field: &str, faults: &mut Faults) {
    if properties.len() > PROPERTIES_MAX {
        let problem = format!("holds {} properties, at most {PROPERTIES_MAX} are allowed", properties.len());
        faults.push(field, problem);
        return;
    }
    for (name, value) in properties {
        let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
        let place = format!("{field}[{shown:?}]");
        if let Some(problem) = name_problem(name) {
            faults.push(place, problem);
        } else if is_secret(name) && !is_reference(value) {
            faults.push(
                place,
                "holds a secret, which must be given by reference: `${env:NAME}` for a worker's environment variable \
                 or `${file:/path:key}` for a key of a properties file, as the whole value",
            );
        } else if value.len() > VALUE_BYTES_MAX {
            faults.push(place, format!("must have at most {VALUE_BYTES_MAX} bytes"));
        }
    }
}

fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a property must have a name".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("a property's name must have at most {NAME_BYTES_MAX} bytes"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Some("a property's name may hold only letters, digits, `.`, `_` and `-`".to_owned());
    }
    if name.eq_ignore_ascii_case("bootstrap.servers") {
        return Some("is given by the field `bootstrap_servers`: remove it here".to_owned());
    }
    None
}
