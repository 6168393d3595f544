//! Whether libmagic recognizes a text as CSV, and how much of the text it needs for that.
//!
//! It counts the commas in the first ten lines, except quoted ones (`csv_parse` in is_csv.c, essentially the same in
//! releases 5.44 to 5.48), and accepts fewer lines if there are no more. Most texts are ruled out by their first
//! line, which has no comma; but if lines are long, the head of a text isn't enough. The minimum numbers of lines and
//! commas depend on the release ([`is_csv`]); the first read is judged by the smallest ones.

/// The number of lines that are counted: CSV_LINES in is_csv.c.
const LINES: usize = 10;

/// Fewer lines than this are never CSV: two from 5.45 on, three before.
const FEW: usize = 2;

/// What a part of a text shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsvVerdict {
    /// The answer is final: a line doesn't fit, or ten do.
    Final(bool),
    /// This many lines fit, and there are no more in this part.
    So(usize),
}

/// Whether libmagic recognizes a text as CSV, given all of it, or as much as [decides](CsvVerdict::Final) it. If
/// there are fewer than ten lines, at least `lines` are required, and `commas` in each. Doesn't check whether it is
/// text.
pub fn is_csv(text: &[u8], lines: usize, commas: usize) -> bool {
    match counted(text) {
        (CsvVerdict::Final(yes), expected) => yes && expected >= commas,
        (CsvVerdict::So(seen), expected) => seen >= lines && expected >= commas,
    }
}

/// Whether libmagic could decide otherwise if it sees all of `more` instead of only its beginning, `head`.
pub fn decides_otherwise(head: &[u8], more: &[u8]) -> bool {
    match verdict(head) {
        CsvVerdict::Final(_) => false,
        CsvVerdict::So(before) => match verdict(more) {
            CsvVerdict::Final(true) => true,
            CsvVerdict::Final(false) => before >= FEW,
            CsvVerdict::So(after) => after > before && after >= FEW,
        },
    }
}

pub fn verdict(text: &[u8]) -> CsvVerdict {
    counted(text).0
}

/// Also returns the number of commas of the first line, if it is complete.
fn counted(text: &[u8]) -> (CsvVerdict, usize) {
    let mut rest = text;
    let (mut lines, mut commas, mut expected) = (0, 0, 0);
    while let Some(found) = memchr::memchr3(b'"', b',', b'\n', rest) {
        let byte = rest[found];
        rest = &rest[found + 1..];
        match byte {
            b'"' => rest = behind_quote(rest),
            b',' => commas += 1,
            _ => {
                if commas == 0 || expected != 0 && expected != commas {
                    return (CsvVerdict::Final(false), expected);
                }
                lines += 1;
                if lines == LINES {
                    return (CsvVerdict::Final(true), expected);
                }
                expected = commas;
                commas = 0;
            }
        }
    }
    (CsvVerdict::So(lines), expected)
}

/// What follows a quoted field; a doubled quote doesn't end it (`eatquote`).
fn behind_quote(mut rest: &[u8]) -> &[u8] {
    loop {
        let Some(quote) = memchr::memchr(b'"', rest) else {
            return &[];
        };
        rest = &rest[quote + 1..];
        match rest.first() {
            Some(b'"') => rest = &rest[1..],
            _ => return rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_decide() {
        assert_eq!(verdict(&b"a,b\n".repeat(9)), CsvVerdict::So(9));
        assert_eq!(verdict(&b"a,b\n".repeat(10)), CsvVerdict::Final(true));
    }

    #[test]
    fn a_line_that_does_not_fit_decides() {
        for text in ["prose\nand more, of it\n", "a,b\nc\n", "a,b\nc,d,e\n"] {
            assert_eq!(verdict(text.as_bytes()), CsvVerdict::Final(false), "{text}");
        }
        assert_eq!(verdict(b"a,b\nc"), CsvVerdict::So(1));
        assert_eq!(verdict(b""), CsvVerdict::So(0));
    }

    #[test]
    fn what_is_quoted_does_not_count() {
        assert_eq!(verdict(b"\"a,\n\"\"b\",c\nd,e\n"), CsvVerdict::So(2));
        assert_eq!(verdict(b"\"a,\n\"\"b\"\nd,e\n"), CsvVerdict::Final(false));
        assert_eq!(verdict(b"a,b\nc,\"never\nended\nd\n"), CsvVerdict::So(1));
    }

    #[test]
    fn what_is_seen_whole_is_csv_by_fewer_lines() {
        for (text, expected) in [
            ("a,b\nc,d\n", true),
            ("a,b\nc,d\ne", true),
            ("a,b\nc,\"d\n", false),
            ("a,b\n", false),
            ("a,b\nc,d\ne\n", false),
            ("", false),
        ] {
            assert_eq!(is_csv(text.as_bytes(), FEW, 1), expected, "{text}");
        }
        // Nothing after the tenth line counts, but one comma less within it does.
        for (lines, expected) in [(10, true), (9, false)] {
            let text = "a,b\n".repeat(lines) + "c\n";
            assert_eq!(is_csv(text.as_bytes(), FEW, 1), expected, "{lines} lines");
        }
    }

    #[test]
    fn lines_and_commas_are_counted() {
        for (text, lines, commas, expected) in [
            ("a,b\n".repeat(2), 2, 1, true),
            ("a,b\n".repeat(2), 3, 1, false),
            ("a,b\n".repeat(2), 2, 2, false),
            ("a,b,c\n".repeat(2), 2, 2, true),
            ("a,b\n".repeat(10), 2, 2, false),
            ("a,b\n".repeat(10), 3, 1, true),
            ("a,b\n".repeat(2) + "c,", 2, 1, true),
        ] {
            let is_csv = is_csv(text.as_bytes(), lines, commas);
            assert_eq!(is_csv, expected, "{text:?} {lines} {commas}");
        }
    }

    #[test]
    fn more_matters_if_lines_come_to_an_end() {
        let otherwise = |head: &str, more: &str| {
            decides_otherwise(head.as_bytes(), format!("{head}{more}").as_bytes())
        };
        assert!(otherwise("a,b\n", "c,d\n"));
        assert!(otherwise("a", ",b\nc,d\n"));
        assert!(otherwise("a,b\nc,d\n", "e\n"));
        assert!(!otherwise("a,b\nc,", "d"));
        assert!(!otherwise("a,b\n", "c\n"));
        assert!(!otherwise("function(a,b){", "}\nmore\n"));
        assert!(!otherwise("prose\n", "a,b\nc,d\n"));
        assert!(!otherwise(&"a,b\n".repeat(10), "c\n"));
    }
}
