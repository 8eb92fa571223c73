//! Which names come nearest to what somebody wrote.
//!
//! Owns the measure; knows nothing about topics.

/// Names less alike than this are not shown; 1 is equal.
const ALIKE: f64 = 0.75;

/// The names that come nearest to any of the texts, nearest first. A text may be the beginning of a name: it is compared
/// with as much of the name as it has characters, too.
pub(super) fn nearest<'a>(
    texts: impl Iterator<Item = String>,
    names: impl Iterator<Item = &'a str>,
    count: usize,
) -> Vec<&'a str> {
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).map(|text| text.to_lowercase()).collect();
    let mut found: Vec<(f64, &str)> = names
        .filter_map(|name| {
            let best = texts.iter().map(|text| likeness(text, &name.to_lowercase())).fold(0.0, f64::max);
            (best >= ALIKE).then_some((best, name))
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    found.into_iter().take(count).map(|(_, name)| name).collect()
}

fn likeness(text: &str, name: &str) -> f64 {
    let beginning: String = name.chars().take(text.chars().count()).collect();
    strsim::normalized_damerau_levenshtein(text, name)
        .max(strsim::normalized_damerau_levenshtein(text, &beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(text: &str, names: &[&'a str]) -> Vec<&'a str> {
        nearest(std::iter::once(text.to_owned()), names.iter().copied(), 2)
    }

    #[test]
    fn typos_come_nearest_and_strangers_not_at_all() {
        assert_eq!(
            of("ordres", &["payments", "orders.us", "orders.eu", "order"]),
            ["orders.eu", "orders.us"]
        );
        assert_eq!(of("Orders", &["orders"]), ["orders"]);
        assert_eq!(of("oders", &["orders", "odes"]), ["orders", "odes"]);
        assert!(of("x", &["orders"]).is_empty());
        assert!(of("", &["orders"]).is_empty(), "nothing comes near to nothing");
    }
}
