//! How much of a text libmagic needs to see to take it for CSV, or not to.
//!
//! It counts commas in the first ten lines, quoted ones excepted (`csv_parse` in is_csv.c, in essence the
//! same in releases 5.44 to 5.48), and is content with fewer lines if there are no more. Most texts
//! contradict it in the first line, which has no comma; but where lines are long, the head of a text
//! doesn't decide it.

/// Lines that are counted: CSV_LINES in is_csv.c.
const LINES: usize = 10;

/// Fewer lines than this aren't CSV: two from 5.46 on, three before.
const FEW: usize = 2;

/// What some of a text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A line doesn't fit, or ten do.
    Final(bool),
    /// So many lines fit, and there are no more here.
    So(usize),
}

/// Could libmagic decide otherwise when it sees all of `more` instead of its beginning, `head`?
pub fn decides_otherwise(head: &[u8], more: &[u8]) -> bool {
    match verdict(head) {
        Verdict::Final(_) => false,
        Verdict::So(before) => match verdict(more) {
            Verdict::Final(true) => true,
            Verdict::Final(false) => before >= FEW,
            Verdict::So(after) => after > before && after >= FEW,
        },
    }
}

fn verdict(text: &[u8]) -> Verdict {
    let mut rest = text;
    let (mut lines, mut commas, mut expected) = (0, 0, 0);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'"' => rest = behind_quote(rest),
            b',' => commas += 1,
            b'\n' => {
                if commas == 0 || expected != 0 && expected != commas {
                    return Verdict::Final(false);
                }
                lines += 1;
                if lines == LINES {
                    return Verdict::Final(true);
                }
                expected = commas;
                commas = 0;
            }
            _ => {}
        }
    }
    Verdict::So(lines)
}

/// What follows a quoted field; a doubled quote doesn't end it.
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
        assert_eq!(verdict(&b"a,b\n".repeat(9)), Verdict::So(9));
        assert_eq!(verdict(&b"a,b\n".repeat(10)), Verdict::Final(true));
    }

    #[test]
    fn a_line_that_does_not_fit_decides() {
        for text in ["prose\nand more, of it\n", "a,b\nc\n", "a,b\nc,d,e\n"] {
            assert_eq!(verdict(text.as_bytes()), Verdict::Final(false), "{text}");
        }
        assert_eq!(verdict(b"a,b\nc"), Verdict::So(1));
        assert_eq!(verdict(b""), Verdict::So(0));
    }

    #[test]
    fn what_is_quoted_does_not_count() {
        assert_eq!(verdict(b"\"a,\n\"\"b\",c\nd,e\n"), Verdict::So(2));
        assert_eq!(verdict(b"\"a,\n\"\"b\"\nd,e\n"), Verdict::Final(false));
        assert_eq!(verdict(b"a,b\nc,\"never\nended\nd\n"), Verdict::So(1));
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
