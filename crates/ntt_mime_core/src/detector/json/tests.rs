use super::*;
use crate::detector::{Detector, DetectorConfig};
use proptest::prelude::*;

#[test]
fn what_json_may_begin_like() {
    for head in [
        "{",
        "[",
        " \n\t\r[",
        "{\"",
        "{\"a",
        "{\"a\\",
        "{\"a\\u00",
        "{\"a\":",
        "{\"a\":tr",
        "{}",
        "[]",
        "[1,",
        "[1.",
        "[-",
        "[.5, ",
        "[1e",
        "[1e+",
        "[[[[",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\":[{},",
        "{}\n{",
        "{\"a\":1}\n{\"b",
        "[\"\x7f\u{e9}\n",
        "[true,false,null",
    ] {
        assert!(may_become_json(head.as_bytes()), "{head}");
    }
}

#[test]
fn blanks_may_be_followed_by_anything() {
    assert!(may_become_json(b" "));
    assert!(may_become_json(b"\n\t \r"));
    assert!(!may_become_json(b""));
}

#[test]
fn what_contradicts_json() {
    for head in [
        "",
        "a",
        "\"a\"",
        "1",
        "\u{feff}{",
        "{\\rtf1\\ansi",
        "[settings]\nkey=value\n",
        "[2024-01-02 ",
        "{ int i;",
        "[[wiki]]",
        "{% block",
        "[tru,",
        "[nul]",
        "{'a'",
        "{\"a\";",
        "{\"a\":1;",
        "[1 2",
        "{\"\\x",
        "{\"\\u00g",
        "[1]]",
        "{}x",
        "{}[",
        "[\0",
        "[\"\0",
        "[-,",
        "[1e,",
        "[.e5,",
        "[--1",
        "[,",
        "{,",
        "[1,,",
        "// comment\n{",
    ] {
        assert!(!may_become_json(head.as_bytes()), "{head}");
    }
}

#[test]
fn two_values_in_the_head_are_no_reason_to_read_on() {
    assert!(!may_become_json(b"{\"a\":1}\n{\"b\":2}\n{"));
    assert!(!may_become_json(b"[][]x"));
}

#[test]
fn brackets_without_end_are_harmless() {
    assert!(!may_become_json("[".repeat(1_000_000).as_bytes()));
    assert!(!may_become_json("{\"\":".repeat(1_000_000).as_bytes()));
}

/// Texts that are JSON, nearly JSON, or made of its parts.
fn jsonish() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        "-?[0-9]{0,3}\\.?[0-9]{0,2}([eE][+-]?[0-9]{0,2})?",
        r#""([a-z \n]|\\["\\/bfnrtux]|\\u[0-9a-fA-F]{4}){0,5}""#,
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
    ];
    let space = || "[ \n\r\t]{0,2}";
    let value = scalar.prop_recursive(5, 40, 5, move |inner| {
        let items = proptest::collection::vec((space(), inner, space()), 0..5);
        (any::<bool>(), items, "[,;]?").prop_map(|(object, items, last)| {
            let items: Vec<String> = items
                .into_iter()
                .map(|(a, value, b)| match object {
                    true => format!("{a}\"k\"{b}:{a}{value}{b}"),
                    false => format!("{a}{value}{b}"),
                })
                .collect();
            let items = items.join(",");
            match object {
                true => format!("{{{items}{last}}}"),
                false => format!("[{items}{last}]"),
            }
        })
    });
    let values = proptest::collection::vec((space(), value), 1..4);
    prop_oneof![
        4 => values.prop_map(|values| {
            values.into_iter().map(|(space, value)| space + &value).collect()
        }),
        1 => r#"[\[{][\[\]{}",:tfn0-9.e \n-]{0,12}"#,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// libmagic is the judge: what it calls JSON as a whole must not have been ruled out by any
    /// head of it, unless that head says so already.
    #[test]
    fn no_head_of_json_is_ruled_out(text in jsonish()) {
        thread_local! {
            static DETECTOR: std::cell::RefCell<Detector> = Detector::new(DetectorConfig {
                head_bytes: 1 << 20,
                prefilter: false,
            }).unwrap().into();
        }
        let type_of = |text: &[u8]| DETECTOR.with_borrow_mut(|detector| {
            detector.detect_bytes(text).unwrap().mime_type
        });
        let whole = type_of(text.as_bytes());
        if matches!(whole.as_str(), "application/json" | "application/x-ndjson") {
            for end in 1..text.len() {
                let head = &text.as_bytes()[..end];
                if text[..end].trim_start().is_empty() {
                    // The first byte that isn't blank decides, so it has to be there.
                    continue;
                }
                prop_assert!(
                    may_become_json(head) || type_of(head) == whole,
                    "{:?} of {:?}", String::from_utf8_lossy(head), text
                );
            }
        }
    }
}
