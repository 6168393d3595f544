//! The name of a blob: the hash of its content, exactly 64 lower-case hexadecimal digits.
//!
//! A [`BlobId`] can only be created by validating, and nothing else ever reaches the file system: the path below a
//! root is built from its 32 bytes, so no text from a query, a table or an argument is used as a path, whatever it
//! contains.

use std::fmt;
use std::str::FromStr;

/// Hexadecimal digits of a blobid.
pub const DIGITS: usize = 64;

/// Bytes of `aa/bb/<64 digits>`.
pub(crate) const RELATIVE_PATH_LENGTH: usize = DIGITS + 6;

/// How many characters of an invalid value are shown to the user.
const SHOWN_CHARACTERS: usize = 80;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A validated blobid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// Accepts exactly 64 lower-case hexadecimal digits, and nothing around them.
    pub fn parse(text: &str) -> Result<BlobId, InvalidBlobId> {
        let digits: &[u8; DIGITS] = text
            .as_bytes()
            .try_into()
            .map_err(|_| InvalidBlobId::of(text))?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return Err(InvalidBlobId::of(text)),
            }
        }
        Ok(BlobId(bytes))
    }

    /// The blobid whose digits stand for these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> BlobId {
        BlobId(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `aa/bb/<64 digits>`: the path of the blob below a root.
    pub fn relative_path(&self) -> String {
        let mut path = String::with_capacity(RELATIVE_PATH_LENGTH);
        path.extend(self.relative_path_bytes().map(char::from));
        path
    }

    /// The same without allocating, for opening millions of files.
    pub(crate) fn relative_path_bytes(&self) -> [u8; RELATIVE_PATH_LENGTH] {
        let digits = self.digits();
        let mut path = [b'/'; RELATIVE_PATH_LENGTH];
        path[..2].copy_from_slice(&digits[..2]);
        path[3..5].copy_from_slice(&digits[2..4]);
        path[6..].copy_from_slice(&digits);
        path
    }

    fn digits(&self) -> [u8; DIGITS] {
        let mut digits = [0; DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        digits
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        // The digits are ASCII, so this never fails.
        f.pad(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = InvalidBlobId;

    fn from_str(text: &str) -> Result<BlobId, InvalidBlobId> {
        BlobId::parse(text)
    }
}

/// Why a text isn't a blobid. Displayed as a complete sentence, for the DETAIL of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InvalidBlobId {
    /// The value in printable form: control characters are escaped, and it is cut to a reasonable length.
    shown: String,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    Length {
        characters: usize,
    },
    /// Counted from 1, as PostgreSQL's own string functions do.
    Character {
        position: usize,
        character: char,
    },
}

impl InvalidBlobId {
    /// What is wrong with a text that [`BlobId::parse`] refused.
    fn of(text: &str) -> InvalidBlobId {
        let characters = text.chars().count();
        let stranger = text
            .chars()
            .enumerate()
            .find(|(_, c)| !matches!(c, '0'..='9' | 'a'..='f'));
        let fault = match stranger {
            Some((index, character)) if characters == DIGITS => Fault::Character {
                position: index + 1,
                character,
            },
            _ => Fault::Length { characters },
        };
        InvalidBlobId {
            shown: printable(text),
            fault,
        }
    }
}

impl fmt::Display for InvalidBlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.shown;
        match self.fault {
            Fault::Length { characters: 0 } => {
                write!(
                    f,
                    "A blobid has {DIGITS} lower-case hexadecimal digits, not an empty text."
                )
            }
            Fault::Length { characters } => {
                let plural = if characters == 1 { "" } else { "s" };
                write!(
                    f,
                    "A blobid has {DIGITS} lower-case hexadecimal digits; \"{shown}\" has \
                     {characters} character{plural}."
                )
            }
            Fault::Character {
                position,
                character,
            } => {
                write!(
                    f,
                    "A blobid has {DIGITS} lower-case hexadecimal digits; character {position} of \
                     \"{shown}\" is \"{}\".",
                    escaped(character)
                )
            }
        }
    }
}

impl std::error::Error for InvalidBlobId {}

fn printable(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters
        .by_ref()
        .take(SHOWN_CHARACTERS)
        .map(escaped)
        .collect();
    if characters.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// Control characters, and those that would be invisible or combine with the next, become `\n`, `\u{7f}` and so on.
/// Apostrophes need no escape between quotation marks.
fn escaped(character: char) -> String {
    match character {
        '\'' => String::from('\''),
        _ => character.escape_debug().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn detail(text: &str) -> String {
        BlobId::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_blobid_knows_its_place() {
        let id = BlobId::parse(GOOD).unwrap();
        assert_eq!(id.to_string(), GOOD);
        assert_eq!(id.relative_path(), format!("af/13/{GOOD}"));
        assert_eq!(&id.as_bytes()[..2], &[0xaf, 0x13]);
        assert_eq!(GOOD.parse(), Ok(id));
        assert_eq!(format!("{id:?}"), format!("BlobId({GOOD})"));
    }

    #[test]
    fn the_length_is_told() {
        assert_eq!(
            detail(""),
            "A blobid has 64 lower-case hexadecimal digits, not an empty text."
        );
        assert_eq!(
            detail("a"),
            "A blobid has 64 lower-case hexadecimal digits; \"a\" has 1 character."
        );
        assert!(detail(&GOOD[1..]).ends_with(" has 63 characters."));
        assert!(detail(&format!("{GOOD}0")).ends_with(" has 65 characters."));
        assert!(detail(&format!("{GOOD}\n")).ends_with("3262\\n\" has 65 characters."));
    }

    #[test]
    fn the_first_bad_character_is_told() {
        let upper = GOOD.to_uppercase();
        assert!(
            detail(&upper).ends_with(&format!("character 1 of \"{upper}\" is \"A\".")),
            "{}",
            detail(&upper)
        );
        let slashes = format!("{}/../etc", &GOOD[..57]);
        assert_eq!(slashes.len(), 64);
        assert!(detail(&slashes).ends_with("is \"/\"."));
        let nul = format!("{}\0", &GOOD[..63]);
        assert!(detail(&nul).contains("character 64 of "));
        assert!(detail(&nul).ends_with("is \"\\0\"."));
        let umlaut = format!("{}ä", &GOOD[..63]);
        assert!(detail(&umlaut).ends_with("is \"ä\"."));
        // 64 bytes, but fewer characters.
        let wide = format!("{}ä", &GOOD[..62]);
        assert!(detail(&wide).ends_with(" has 63 characters."));
        let full_width = format!("{}０", &GOOD[..63]);
        assert!(detail(&full_width).ends_with("is \"０\"."));
    }

    #[test]
    fn a_long_or_ugly_value_is_shown_tamely() {
        let long = "x".repeat(1_000_000);
        let shown = detail(&long);
        assert!(shown.len() < 200, "{}", shown.len());
        assert!(shown.contains("xxx...\" has 1000000 characters."));
        let ugly = detail("\u{1b}[31m\r\n\u{202e}'\"\\");
        assert!(!ugly.chars().any(char::is_control), "{ugly:?}");
        assert!(
            ugly.contains(r#""\u{1b}[31m\r\n\u{202e}'\"\\" has 11 characters."#),
            "{ugly}"
        );
    }

    proptest! {
        #[test]
        fn roundtrip(bytes: [u8; 32]) {
            let id = BlobId::from_bytes(bytes);
            let text = id.to_string();
            prop_assert_eq!(text.len(), DIGITS);
            prop_assert_eq!(BlobId::parse(&text), Ok(id));
            prop_assert_eq!(*id.as_bytes(), bytes);
            prop_assert_eq!(
                id.relative_path(),
                format!("{}/{}/{}", &text[..2], &text[2..4], text)
            );
        }

        #[test]
        fn order_is_that_of_the_text(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (BlobId::from_bytes(a), BlobId::from_bytes(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn only_64_lower_case_digits_pass(text in r"[0-9a-fA-G \n/.]{0,70}|[0-9a-f]{60,68}|\PC*|(?s).*") {
            let good = text.len() == DIGITS
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let parsed = BlobId::parse(&text);
            prop_assert_eq!(parsed.is_ok(), good);
            match parsed {
                Ok(id) => prop_assert_eq!(id.to_string(), text),
                Err(error) => {
                    let sentence = error.to_string();
                    prop_assert!(!sentence.chars().any(char::is_control));
                    prop_assert!(sentence.len() < 2_000);
                }
            }
        }

        #[test]
        fn one_wrong_character_is_found(
            bytes: [u8; 32],
            place in 0..DIGITS,
            wrong in any::<char>().prop_filter("a digit", |c| !matches!(c, '0'..='9' | 'a'..='f')),
        ) {
            let mut characters: Vec<char> = BlobId::from_bytes(bytes).to_string().chars().collect();
            characters[place] = wrong;
            let text: String = characters.into_iter().collect();
            let fault = BlobId::parse(&text).unwrap_err().fault;
            prop_assert_eq!(fault, Fault::Character { position: place + 1, character: wrong });
        }
    }
}
