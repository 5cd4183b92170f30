//! The text of index sets, there and back.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{INDICES_MAX, IndexSet};

fn set(indices: impl IntoIterator<Item = u32>) -> IndexSet {
    let mut set = IndexSet::default();
    for index in indices {
        set.insert(index).unwrap();
    }
    set
}

#[test]
fn texts_are_short_and_sorted() {
    let cases: &[(&[u32], &str)] = &[
        (&[], ""),
        (&[0], "0"),
        (&[1, 0], "0-1"),
        (&[12, 0, 2, 7, 9, 1, 3, 10, 11], "0-3,7,9-12"),
        (&[4, 6, 5], "4-6"),
        (&[5, 5], "5"),
        (&[INDICES_MAX - 1], "99999"),
    ];
    for (indices, text) in cases {
        let set = set(indices.iter().copied());
        assert_eq!(set.to_string(), *text);
        assert_eq!(IndexSet::parse(text), Ok(set));
    }
}

#[test]
fn other_texts_are_refused_with_the_part_that_is_wrong() {
    let cases = [
        (" ", r#"" " is neither an index nor a range like 3-7"#),
        ("1,", r#""" is neither an index nor a range like 3-7"#),
        ("1, 2", r#"" 2" is neither an index nor a range like 3-7"#),
        ("+1", r#""+1" is neither an index nor a range like 3-7"#),
        ("01", r#""01" is neither an index nor a range like 3-7"#),
        ("-1", r#""-1" is neither an index nor a range like 3-7"#),
        (
            "1-2-3",
            r#""1-2-3" is neither an index nor a range like 3-7"#,
        ),
        (
            "99999999999999999999999",
            r#""99999999999999999999999" is neither an index nor a range like 3-7"#,
        ),
        ("0-100000", "index 100000 is not below 100000"),
        ("4294967296", "index 4294967296 is not below 100000"),
        ("3-3", r#"range "3-3" doesn't rise"#),
        ("4-3", r#"range "4-3" doesn't rise"#),
        (
            "2,1",
            r#""1" doesn't lie behind the part before it, with a gap between"#,
        ),
        (
            "0-3,3",
            r#""3" doesn't lie behind the part before it, with a gap between"#,
        ),
        (
            "0-3,4-5",
            r#""4-5" doesn't lie behind the part before it, with a gap between"#,
        ),
    ];
    for (text, message) in cases {
        assert_eq!(
            IndexSet::parse(text).unwrap_err().to_string(),
            message,
            "{text}"
        );
    }
}

#[test]
fn an_index_beyond_all_replicas_is_refused() {
    let mut set = set([1]);
    assert!(set.insert(INDICES_MAX).is_err());
    assert!(set.insert(u32::MAX).is_err());
    assert!(!set.contains(u32::MAX));
    assert_eq!(set.to_string(), "1");
}

#[test]
fn json_holds_the_text() {
    let text = serde_json::to_string(&set([3, 1, 2])).unwrap();
    assert_eq!(text, r#""1-3""#);
    assert_eq!(
        serde_json::from_str::<IndexSet>(&text).unwrap(),
        set([1, 2, 3])
    );
    let error = serde_json::from_str::<IndexSet>(r#""3,1""#)
        .unwrap_err()
        .to_string();
    assert!(error.contains("doesn't lie behind"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_set_is_a_set(indices in prop::collection::vec(0..40_u32, 0..60)) {
        let mut wanted = BTreeSet::new();
        let mut set = IndexSet::default();
        for index in indices {
            prop_assert_eq!(set.insert(index), Ok(wanted.insert(index)));
        }
        prop_assert!(set.iter().eq(wanted.iter().copied()));
        prop_assert_eq!(usize::try_from(set.len()).unwrap(), wanted.len());
        prop_assert_eq!(set.is_empty(), wanted.is_empty());
        for index in 0..42 {
            prop_assert_eq!(set.contains(index), wanted.contains(&index));
        }
    }

    #[test]
    fn any_set_comes_back_from_its_text(indices in prop::collection::vec(prop_oneof![0..50_u32, 0..INDICES_MAX], 0..60)) {
        let set = set(indices);
        prop_assert_eq!(IndexSet::parse(&set.to_string()), Ok(set));
    }

    #[test]
    fn any_text_that_is_read_is_written_the_same(text in "[0-9]{1,3}([,-][0-9]{1,3}){0,4}|\\PC{0,12}") {
        if let Ok(set) = IndexSet::parse(&text) {
            prop_assert_eq!(set.to_string(), text);
        }
    }
}
