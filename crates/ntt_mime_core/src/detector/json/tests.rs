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

#[test]
fn brackets_are_counted_as_libmagic_does() {
    let nested = |n: usize, open: &str, close: &str| open.repeat(n) + &close.repeat(n);
    let is_json =
        |dialect, text: &str| verdict(dialect, text.as_bytes()) == JsonVerdict::Whole(JSON);
    assert!(is_json(Dialect::Of544, &nested(251, "[", "]")));
    assert!(!is_json(Dialect::Of544, &nested(252, "[", "]")));
    // The second value begins a level further in.
    let twice = |n: usize| {
        let text = format!("[]\n{}", nested(n, "[", "]"));
        verdict(Dialect::Of544, text.as_bytes())
    };
    assert_eq!(twice(250), JsonVerdict::Yes(LINES));
    assert_eq!(twice(251), JsonVerdict::No);
    let of_541 = |n| verdict(Dialect::Of541, nested(n, "[", "]").as_bytes());
    assert_eq!(
        (of_541(11), of_541(12)),
        (JsonVerdict::Yes(JSON), JsonVerdict::No)
    );
}

#[test]
fn the_simpler_parser_is_followed_too() {
    for (text, of_541, of_544) in [
        ("[tail]", JsonVerdict::Yes(JSON), JsonVerdict::No),
        ("[tai", JsonVerdict::More, JsonVerdict::No),
        ("[]x", JsonVerdict::Yes(JSON), JsonVerdict::No),
        ("[]", JsonVerdict::Yes(JSON), JsonVerdict::Whole(JSON)),
        ("[ ]", JsonVerdict::No, JsonVerdict::Whole(JSON)),
        ("[1, ]", JsonVerdict::No, JsonVerdict::Whole(JSON)),
        ("[1,]", JsonVerdict::Yes(JSON), JsonVerdict::Whole(JSON)),
        ("{ }", JsonVerdict::Yes(JSON), JsonVerdict::Whole(JSON)),
        ("[][", JsonVerdict::Yes(JSON), JsonVerdict::More),
        ("[][]", JsonVerdict::Yes(JSON), JsonVerdict::Yes(LINES)),
        ("[]{}", JsonVerdict::Yes(JSON), JsonVerdict::No),
        (" \n", JsonVerdict::More, JsonVerdict::More),
        ("1", JsonVerdict::No, JsonVerdict::No),
    ] {
        let verdicts = [Dialect::Of541, Dialect::Of544].map(|it| verdict(it, text.as_bytes()));
        assert_eq!(verdicts, [of_541, of_544], "{text}");
    }
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
