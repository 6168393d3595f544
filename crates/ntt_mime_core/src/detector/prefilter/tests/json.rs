//! JSON, and what is nearly JSON: nested up to where libmagic gives up, cut and changed anywhere, one value after another,
//! longer than what is read at once, and with the checksum of a tape archive in it.
//!
//! A slice, the same every time; NTT_MIME_DIFFERENCES and NTT_MIME_DIFFERENCES_FROM as for the other generated contents.

use fastrand::Rng;

use super::in_slice;

/// In an ordinary test run.
const GENERATED: usize = 4_000;

#[test]
fn what_may_be_json_has_the_same_type() {
    in_slice(GENERATED, 0x150, |pair, n, rng| {
        pair.agree(&generated(rng), &format!("JSON {n}"));
    });
}

/// One of these.
fn any<'a>(of: &[&'a str], rng: &mut Rng) -> &'a str {
    rng.choice(of).copied().unwrap_or_default()
}

fn blanks(rng: &mut Rng) -> &'static str {
    match rng.bool() {
        true => "",
        false => any(
            &[" ", "\n", "\t", "\r\n", "  ", "\x0b", "\x0c", " \n "],
            rng,
        ),
    }
}

fn scalar(rng: &mut Rng) -> String {
    let of: &[&str] = match rng.u8(..8) {
        0 => &["true", "false", "null"],
        1 => &["tru", "fals", "nul", "trueish", "tail", "nothing", "f", "t"],
        2 | 3 => &["0", "-1", "12.5", "1e9", "-0.5E-3", "99999999"],
        4 => &[
            ".5", "1.", "-", "1e", "1e+", ".", "+1", "--1", "1.2.3", "-.5", "0x1", "NaN",
        ],
        5 => &[
            "\"\"",
            "\"text\"",
            "\"a, b\"",
            "\"\u{fc}\"",
            "\"line\nline\"",
        ],
        6 => &["\"\\n\\\\\\\"\"", "\"\\u00fC\"", "\"\\/\\b\\f\\r\\t\""],
        _ => &[
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"open",
            "'a'",
            "\"\\",
            "\"\0\"",
            "\"\x7f\x01\"",
        ],
    };
    any(of, rng).to_owned()
}

fn value(depth: usize, rng: &mut Rng) -> String {
    if depth == 0 || rng.u8(..4) == 0 {
        // Nearly all are good, or hardly any text would be.
        return loop {
            let scalar = scalar(rng);
            if rng.u8(..8) == 0 || serde_like(&scalar) {
                break scalar;
            }
        };
    }
    let object = rng.bool();
    let mut text = String::from(if object { "{" } else { "[" });
    text += blanks(rng);
    for n in 0..rng.usize(..5) {
        if n > 0 {
            text += if rng.u8(..40) == 0 {
                any(&[";", ",,", " ", ":"], rng)
            } else {
                ","
            };
            text += blanks(rng);
        }
        if object {
            text += any(&["\"a\"", "\"b c\"", "\"\"", "\"\\n\""], rng);
            text += blanks(rng);
            text += if rng.u8(..40) == 0 { "=" } else { ":" };
            text += blanks(rng);
        }
        text += &value(depth - 1, rng);
        text += blanks(rng);
    }
    if rng.u8(..8) == 0 {
        text.push(',');
        text += blanks(rng);
    }
    let wrong = rng.u8(..60) == 0;
    text.push(if object != wrong { '}' } else { ']' });
    text
}

/// One that all parsers take.
fn serde_like(scalar: &str) -> bool {
    let number = scalar.parse::<f64>().is_ok() && scalar.as_bytes()[0].is_ascii_digit();
    let string = scalar.len() > 1
        && scalar.starts_with('"')
        && scalar.ends_with('"')
        && !scalar.contains('\\')
        && !scalar.contains('\0');
    number || string || ["true", "false", "null"].contains(&scalar)
}

fn generated(rng: &mut Rng) -> Vec<u8> {
    let mut text = String::from(blanks(rng));
    match rng.u8(..10) {
        // As deep as it goes, in either form of the parser.
        0 => {
            let depth = *rng
                .choice(&[9, 10, 11, 12, 249, 250, 251, 252])
                .expect("some");
            let (open, inner, close) = match rng.bool() {
                true => ("[", any(&["", "1", "[]"], rng), "]"),
                false => ("{\"a\":", any(&["1", "{}", "[]"], rng), "}"),
            };
            if rng.u8(..4) == 0 {
                text += &format!("{}\n", value(1, rng));
            }
            text += &open.repeat(depth);
            text += inner;
            text += &close.repeat(depth);
        }
        // Longer than what is read at once.
        1 => {
            let length = *rng
                .choice(&[1 << 10, 16 << 10, 64 << 10, 256 << 10, 900 << 10])
                .expect("some");
            let item = format!("{},", value(2, rng));
            text.push('[');
            let length = length - rng.usize(..40);
            if item.len() > 2 {
                text += &item.repeat(length / item.len());
            }
            while text.len() < length {
                text.push(' ');
            }
            text += any(&["]", "1]", "", "]]", "1", "] []", "]\n[", "] {}"], rng);
        }
        // A record a line.
        2 | 3 => {
            for _ in 0..rng.usize(1..6) {
                text += &value(3, rng);
                text += any(&["\n", "", "\r\n", " "], rng);
            }
        }
        _ => {
            text += &value(5, rng);
            text += blanks(rng);
        }
    }
    let mut content = text.into_bytes();
    match rng.u8(..12) {
        0 => content.truncate(rng.usize(..=content.len())),
        1 | 2 => {
            let at = rng.usize(..=content.len());
            let byte = match rng.bool() {
                true => *rng.choice(b"{}[]\",:\\ \n\0tfn0-.e").expect("some"),
                false => rng.u8(..),
            };
            match content.get_mut(at) {
                Some(there) if rng.bool() => *there = byte,
                _ => content.insert(at, byte),
            }
        }
        // Blanks before it that are longer than what is read at once.
        3 => {
            let most = 1 << rng.u32(4..15);
            let blanks = rng.usize(1..most);
            content.splice(..0, std::iter::repeat_n(b' ', blanks));
        }
        // What makes a tape archive of it.
        4 if content.len() < 100 => {
            let mut archive = b"[\"".to_vec();
            archive.resize(510, b'x');
            archive.extend(b"\",");
            archive.extend(&content);
            archive.push(b']');
            let blanks: [u8; 8] = [b' '; 8];
            archive[148..156].copy_from_slice(&blanks);
            let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
            archive[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
            content = archive;
        }
        5 => content.extend(vec![0; rng.usize(1..4)]),
        _ => {}
    }
    content
}
