//! Translates POSIX extended regular expressions for the `regex` crate.
//!
//! libmagic compiles the regular expressions of its rules with regcomp(3), REG_EXTENDED and REG_NEWLINE (and
//! REG_ICASE for some), in the C locale (`alloc_regex` in src/softmagic.c, `file_regcomp` in src/funcs.c; 5.44, 5.46,
//! 5.47). All that matters is whether a rule's expression matches anywhere, so it is irrelevant which match POSIX
//! prefers. What is left is the same language:
//!
//! - bytes, not characters;
//! - with REG_NEWLINE, a period and a negated list don't match a line feed, and `^` and `$` also match after and
//!   before one;
//! - the text contains no zero byte, since it is passed as a C string.
//!
//! What the standard leaves undefined, such as a `*` that follows nothing, or is an extension of GNU, such as `\<`,
//! is not translated: such a rule stays undecided.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::detector::release::Refused;

/// A shorter piece of a search or of a regular expression isn't significant.
pub const SHORTEST_NEEDLE: usize = 3;

/// Whether libmagic refuses it before compiling it (`check_regex`).
pub fn is_refused(posix: &[u8], refused: Refused) -> bool {
    const SIGNS: &[u8] = b"?*+{";
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t'..=b'\r' | 0x08 | 0x8A);
    let twice = |two: &[u8]| two[0] == two[1] && SIGNS.contains(&two[0]);
    let any_two = |two: &[u8]| two.iter().all(|byte| SIGNS.contains(byte));
    let pairs = || posix.windows(2);
    match refused {
        Refused::Nothing => false,
        Refused::Twice => pairs().any(twice) || !posix.iter().all(printable),
        // More than a thousand repetitions aren't translated either.
        Refused::AnyTwo => {
            pairs().any(any_two)
                || pairs().any(|two| two == b"}{")
                || posix.first().is_some_and(|first| SIGNS.contains(first))
                || !posix.iter().all(printable)
        }
    }
}

/// The translation; None if the expression isn't understood.
pub fn translate(posix: &[u8], ignore_case: bool) -> Option<String> {
    let mut translator = Translator {
        rest: posix,
        out: String::from(if ignore_case { "(?i-u)" } else { "(?-u)" }),
    };
    translator.alternatives(0)?;
    translator.rest.is_empty().then_some(translator.out)
}

/// Pieces of text, in lower case, of which one is found, in any case, wherever the translation matches. None if there
/// are none that are long enough to be useful.
pub fn required(translation: &str) -> Option<Vec<Vec<u8>>> {
    let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
    pieces(&parser.parse(translation).ok()?)
}

fn pieces(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    // The current run of characters, and the best pieces so far.
    let mut run = Vec::new();
    let mut best = None;
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    for part in parts {
        if add_characters(part, &mut run) {
            continue;
        }
        best = better(best, Some(vec![std::mem::take(&mut run)]));
        let within = match part.kind() {
            HirKind::Capture(capture) => pieces(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => pieces(&repetition.sub),
            HirKind::Alternation(ways) => {
                let ways: Option<Vec<_>> = ways.iter().map(pieces).collect();
                ways.map(|ways| ways.concat())
            }
            HirKind::Concat(_) => pieces(part),
            _ => None,
        };
        best = better(best, within);
    }
    better(best, Some(vec![run]))
}

/// The alternative whose shortest piece is longer, if that is long enough.
fn better(a: Option<Vec<Vec<u8>>>, b: Option<Vec<Vec<u8>>>) -> Option<Vec<Vec<u8>>> {
    let shortest = |pieces: &Vec<Vec<u8>>| pieces.iter().map(Vec::len).min().unwrap_or(0);
    let of_use = [a, b].into_iter().flatten();
    of_use
        .filter(|pieces| shortest(pieces) >= SHORTEST_NEEDLE)
        .max_by_key(shortest)
}

/// Adds a part that can only match these characters, in any case. They are ASCII, as `required` needs them.
fn add_characters(part: &Hir, run: &mut Vec<u8>) -> bool {
    match part.kind() {
        HirKind::Literal(literal) if literal.0.is_ascii() => {
            run.extend(literal.0.to_ascii_lowercase());
            true
        }
        HirKind::Class(Class::Bytes(class)) => {
            let bytes: Vec<u8> = class
                .ranges()
                .iter()
                .flat_map(|range| range.start()..=range.end())
                .take(3)
                .collect();
            match bytes.as_slice() {
                [upper, lower]
                    if lower.is_ascii_lowercase() && upper.to_ascii_lowercase() == *lower =>
                {
                    run.push(*lower);
                    true
                }
                _ => false,
            }
        }
        _ => false,
    }
}

struct Translator<'a> {
    rest: &'a [u8],
    out: String,
}

/// The maximum nesting of groups; the magic databases have three levels.
const DEEPEST: usize = 20;

/// The maximum number of repetitions (RE_DUP_MAX of POSIX is 255).
const MOST: u32 = 255;

impl Translator<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn alternatives(&mut self, depth: usize) -> Option<()> {
        loop {
            self.sequence(depth)?;
            match self.peek() {
                Some(b'|') => {
                    self.next();
                    self.out.push('|');
                }
                _ => return Some(()),
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Option<()> {
        // Whether there is something to repeat: not at the start, nor after an anchor.
        let mut repeatable = false;
        loop {
            match self.peek() {
                None | Some(b'|') => return Some(()),
                Some(b')') => return (depth > 0).then_some(()),
                Some(b'*' | b'+' | b'?' | b'{') => {
                    if !repeatable {
                        return None;
                    }
                    self.repetition()?;
                    repeatable = false;
                }
                Some(b'^') => {
                    self.next();
                    self.out.push_str("(?m:^)");
                    repeatable = false;
                }
                Some(b'$') => {
                    self.next();
                    self.out.push_str("(?m:$)");
                    repeatable = false;
                }
                Some(_) => {
                    self.atom(depth)?;
                    repeatable = true;
                }
            }
        }
    }

    fn atom(&mut self, depth: usize) -> Option<()> {
        match self.next()? {
            b'(' => {
                if depth == DEEPEST {
                    return None;
                }
                self.out.push_str("(?:");
                self.alternatives(depth + 1)?;
                if self.next() != Some(b')') {
                    return None;
                }
                self.out.push(')');
            }
            b'.' => self.out.push_str(r"[^\n]"),
            b'[' => self.list()?,
            b'\\' => {
                let escaped = self.next()?;
                // Letters, digits and a few others are GNU extensions, or back references.
                if !b".[]{}()*+?^$|\\/-\"#%&,:;=@_~! ".contains(&escaped) {
                    return None;
                }
                self.literal(escaped);
            }
            byte => self.literal(byte),
        }
        Some(())
    }

    fn literal(&mut self, byte: u8) {
        self.out.push_str(&format!(r"\x{byte:02x}"));
    }

    /// `*`, `+`, `?`, or an interval. Each ends a group of its own, so that `a+?` doesn't become lazy.
    fn repetition(&mut self) -> Option<()> {
        match self.next()? {
            b'{' => {
                let end = self.rest.iter().position(|byte| *byte == b'}')?;
                let interval = std::str::from_utf8(&self.rest[..end]).ok()?;
                let (least, most) = match interval.split_once(',') {
                    None => (interval, Some(interval)),
                    Some((least, "")) => (least, None),
                    Some((least, most)) => (least, Some(most)),
                };
                let number = |text: &str| {
                    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                    let number = digits.then(|| text.parse::<u32>().ok())??;
                    (number <= MOST).then_some(number)
                };
                let least = number(least)?;
                match most {
                    None => self.out.push_str(&format!("{{{least},}}")),
                    Some(most) => {
                        let most = number(most).filter(|most| *most >= least)?;
                        self.out.push_str(&format!("{{{least},{most}}}"));
                    }
                }
                self.rest = &self.rest[end + 1..];
            }
            sign => self.out.push(char::from(sign)),
        }
        // Another one would repeat the repetition; nobody writes that.
        match self.peek() {
            Some(b'*' | b'+' | b'?' | b'{') => None,
            _ => Some(()),
        }
    }

    /// The contents of brackets. A backslash stands for itself there.
    fn list(&mut self) -> Option<()> {
        let negated = self.peek() == Some(b'^');
        if negated {
            self.next();
        }
        self.out.push_str(if negated { r"[^\n" } else { "[" });
        let mut first = true;
        loop {
            let byte = self.next()?;
            match byte {
                b']' if !first => break,
                b'[' if self.peek() == Some(b':') => {
                    let end = self.rest.windows(2).position(|two| two == b":]")?;
                    let name = std::str::from_utf8(&self.rest[1..end]).ok()?;
                    const CLASSES: [&str; 12] = [
                        "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print",
                        "punct", "space", "upper", "xdigit",
                    ];
                    if !CLASSES.contains(&name) {
                        return None;
                    }
                    self.out.push_str(&format!("[:{name}:]"));
                    self.rest = &self.rest[end + 2..];
                }
                // Collating elements and equivalence classes.
                b'[' if matches!(self.peek(), Some(b'.' | b'=')) => return None,
                _ if self.peek() == Some(b'-')
                    && !matches!(self.rest.get(1), None | Some(b']')) =>
                {
                    self.next();
                    let to = self.next()?;
                    if to == b'[' && matches!(self.peek(), Some(b':' | b'.' | b'=')) || to < byte {
                        return None;
                    }
                    self.out.push_str(&format!(r"\x{byte:02x}-\x{to:02x}"));
                }
                _ => self.literal(byte),
            }
            first = false;
        }
        self.out.push(']');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(posix: &str, text: &str) -> bool {
        let source = translate(posix.as_bytes(), false).expect("understood");
        regex::bytes::Regex::new(&source)
            .unwrap()
            .is_match(text.as_bytes())
    }

    #[test]
    fn the_language_is_the_same() {
        for (posix, text, expected) in [
            // Lists: a backslash stands for itself, a bracket may come first, a negated list doesn't contain line
            // feeds.
            (r"a[\]b", r"a\b", true),
            (r"a[]x]b", "a]b", true),
            (r"a[^]x]b", "a]b", false),
            (r"a[^x]b", "a\nb", false),
            (r"a[a-]b", "a-b", true),
            (r"^[[:space:]]*x", "\n\x0b x", true),
            ("a.b", "a\nb", false),
            ("a.b", "a\u{e9}b", false),
            // Anchors are those of lines.
            ("^b$", "a\nb\nc", true),
            ("^b$", "a\nbc", false),
            ("a|^b", "xb", false),
            (r"x{1,3}y", "xxxxy", true),
            (r"^x{1,3}y", "xxxxy", false),
            (r"(ab)+c", "ababc", true),
            (r"\.\*", "a.*", true),
        ] {
            assert_eq!(matches(posix, text), expected, "{posix} on {text:?}");
        }
        let source = translate(b"^AbC", true).unwrap();
        assert!(
            regex::bytes::Regex::new(&source)
                .unwrap()
                .is_match(b"\naBc")
        );
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        for posix in [
            "*a",
            "a|*b",
            "(*a)",
            "^*",
            "a**",
            r"\<a",
            r"a\b",
            r"(a)\1",
            "[[.a.]]",
            "[[=a=]]",
            "[[:wrong:]]",
            "[a",
            "(a",
            "a)",
            "a{",
            "a{x}",
            "a{2,1}",
            "a{999}",
            "a\\",
        ] {
            assert_eq!(translate(posix.as_bytes(), false), None, "{posix}");
        }
    }
}
