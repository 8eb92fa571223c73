//! Pages: sizes and tokens.

use mirrormesh_proto::page::{page_size, page_start, page_token};
use proptest::prelude::*;

#[test]
fn sizes_are_clamped_and_negative_ones_refused() {
    for (requested, expected) in [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
        assert_eq!(page_size(requested), Ok(expected));
    }
    for requested in [-1, i32::MIN] {
        assert_eq!(page_size(requested).unwrap_err().field, "page_size");
    }
}

#[test]
fn garbage_is_not_a_token() {
    let token = page_token("flows", "b");
    let long = "00".repeat(4096);
    let upper = token.to_uppercase();
    let (_, tail) = token.split_at(2);
    let (head, _) = token.split_at(token.len() - 2);
    for garbage in ["x", "0", "00", "zz", "62", "flows/b", "é", head, tail, &long, &upper] {
        let fault = page_start("flows", garbage).unwrap_err();
        assert_eq!(fault.field, "page_token", "{garbage}");
    }
    assert!(page_start("clusters", &token).is_err(), "a token of another list");
    assert_eq!(page_start("flows", ""), Ok(None));
}

proptest! {
    #[test]
    fn tokens_come_back(list in "[a-z/]{1,12}", behind in "\\PC{0,249}") {
        prop_assert_eq!(page_start(&list, &page_token(&list, &behind)), Ok(Some(behind)));
    }

    #[test]
    fn any_text_is_looked_at_without_panic(token in "\\PC{0,40}") {
        prop_assume!(!token.is_empty());
        prop_assert!(page_start("flows", &token).is_err());
    }
}
