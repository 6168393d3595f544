//! Could a file that begins like this be JSON?
//!
//! libmagic calls JSON only what it has parsed to its end, or two such values of the same kind in a
//! row (`application/x-ndjson`), so a head that is cut off never is. Most files that begin with `{`
//! or `[` are something else: RTF, settings, logs, program text. Their heads contradict JSON within
//! a few bytes, and then there is no need to read on.
//!
//! This follows libmagic's own parser (`json_parse` in is_json.c, the same in releases 5.44 to 5.48),
//! with what it is lenient about: a comma before a closing bracket, `1.`, `.5`, any byte but NUL in a
//! string. It may answer yes where libmagic will say no (it doesn't count the depth), never the other
//! way round; a differential test with libmagic as the judge holds it to that.

/// Deeper than libmagic goes (500 levels, two for each bracket), so that memory stays bounded.
const MAX_DEPTH: usize = 1000;

/// What the head of a file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// No continuation makes it JSON.
    Contradiction,
    /// The head ends before that is decided.
    End,
}

/// False if libmagic's answer can't become JSON by looking at more than `head`: because it isn't, or
/// because two whole values lie in the head and that has been seen.
pub fn may_become_json(head: &[u8]) -> bool {
    let mut parser = Parser { rest: head };
    parser.skip_space();
    let first = match parser.peek() {
        // Nothing but blanks so far.
        None => return !head.is_empty(),
        Some(first @ (b'{' | b'[')) => first,
        Some(_) => return false,
    };
    let whole = parser.value().and_then(|()| {
        parser.skip_space();
        match parser.peek() {
            None => Err(Stop::End),
            Some(second) if second == first => parser.value(),
            Some(_) => Err(Stop::Contradiction),
        }
    });
    whole == Err(Stop::End)
}

/// Bytes by which most files that aren't JSON show it.
const START: usize = 1024;

/// False if libmagic, which looks at no more than this, won't call it JSON: its start isn't, or it is short and doesn't
/// hold a whole object or array. libmagic itself is as quick with the rest.
pub fn may_be_json(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(START)];
    let mut parser = Parser { rest: start };
    parser.skip_space();
    match parser.peek() {
        Some(b'{' | b'[') => match parser.value() {
            Ok(()) => true,
            Err(Stop::Contradiction) => false,
            Err(Stop::End) => start.len() < bytes.len(),
        },
        Some(_) => false,
        None => start.len() < bytes.len(),
    }
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.rest.split_first().ok_or(Stop::End)?;
        self.rest = rest;
        Ok(*first)
    }

    fn skip_while(&mut self, skipped: impl Fn(u8) -> bool) -> bool {
        let end = self.rest.iter().position(|byte| !skipped(*byte));
        let end = end.unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
        end > 0
    }

    fn skip_space(&mut self) {
        self.skip_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'));
    }

    /// One value, with a stack of its own: how deep the brackets go is up to whoever wrote the file.
    fn value(&mut self) -> Result<(), Stop> {
        let mut closers = Vec::new();
        loop {
            if closers.len() > MAX_DEPTH {
                return Err(Stop::Contradiction);
            }
            // At the start of a value, or of what a bracket encloses.
            self.skip_space();
            match self.next()? {
                b'{' => {
                    closers.push(b'}');
                    if !self.enters_object()? {
                        continue;
                    }
                }
                b'[' => {
                    closers.push(b']');
                    self.skip_space();
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.word(b"rue")?,
                b'f' => self.word(b"alse")?,
                b'n' => self.word(b"ull")?,
                first => self.number(first)?,
            }
            // After a value: close brackets, until one goes on with another value.
            loop {
                self.skip_space();
                let Some(closer) = closers.last() else {
                    return Ok(());
                };
                match self.next()? {
                    b',' if *closer == b']' => {
                        self.skip_space();
                        if self.peek() != Some(b']') {
                            break;
                        }
                    }
                    b',' => {
                        if !self.enters_object()? {
                            break;
                        }
                    }
                    byte if byte == *closer => {
                        closers.pop();
                    }
                    _ => return Err(Stop::Contradiction),
                }
            }
        }
    }

    /// Up to the value of an object's next member; true if it has none, and its end comes next.
    fn enters_object(&mut self) -> Result<bool, Stop> {
        self.skip_space();
        if self.peek() == Some(b'}') {
            return Ok(true);
        }
        if self.next()? != b'"' {
            return Err(Stop::Contradiction);
        }
        self.string()?;
        self.skip_space();
        match self.next()? {
            b':' => Ok(false),
            _ => Err(Stop::Contradiction),
        }
    }

    /// The rest of a string.
    fn string(&mut self) -> Result<(), Stop> {
        loop {
            self.skip_while(|byte| !matches!(byte, b'"' | b'\\' | 0));
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        for _ in 0..4 {
                            if !self.next()?.is_ascii_hexdigit() {
                                return Err(Stop::Contradiction);
                            }
                        }
                    }
                    _ => return Err(Stop::Contradiction),
                },
                _ => return Err(Stop::Contradiction),
            }
        }
    }

    /// The rest of `true`, `false` or `null`.
    fn word(&mut self, rest: &[u8]) -> Result<(), Stop> {
        for byte in rest {
            if self.next()? != *byte {
                return Err(Stop::Contradiction);
            }
        }
        Ok(())
    }

    /// A number that begins with `first`.
    fn number(&mut self, first: u8) -> Result<(), Stop> {
        let digits = |parser: &mut Self| parser.skip_while(|byte| byte.is_ascii_digit());
        let dot = first == b'.';
        let mut some = match first {
            b'-' | b'.' => false,
            b'0'..=b'9' => true,
            _ => return Err(Stop::Contradiction),
        };
        some |= digits(self);
        if !dot && self.peek() == Some(b'.') {
            self.next()?;
            some |= digits(self);
        }
        if some && matches!(self.peek(), Some(b'e' | b'E')) {
            self.next()?;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.next()?;
            }
            some = digits(self);
        }
        match some {
            true => Ok(()),
            false if self.rest.is_empty() => Err(Stop::End),
            false => Err(Stop::Contradiction),
        }
    }
}

#[cfg(test)]
mod tests {
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
}
