//! When an answer from the head calls for a longer look.
//!
//! Measured on 46,498 files against file(1) on the whole file: heads of 16 kB agree on 99.65 %. What
//! differs is mostly what libmagic gives up on (octet-stream: a signature further in, such as that of
//! ISO 9660 at 32 kB), archives whose first members say little (zip), and JSON, which libmagic only
//! believes when it has seen its end. With the rules below 99.978 % agree, at 13 kB a file.

/// The second look at what libmagic could not name.
const SECOND_LOOK: usize = 64 * 1024;

/// libmagic's own limit, and so that of file(1): FILE_BYTES_MAX in libmagic's file.h.
pub const WHOLE: usize = 7 * 1024 * 1024;

/// How many bytes to look at next, given the answer `mime_type` from a look at `looked` bytes of a
/// file of `size` bytes that starts with `head`. None: the answer stands.
pub fn longer_look(mime_type: &str, head: &[u8], looked: usize, size: u64) -> Option<usize> {
    if size <= looked as u64 {
        return None;
    }
    let next = if starts_like_json(head) && may_be_json(mime_type) {
        WHOLE
    } else if matches!(mime_type, "application/octet-stream" | "application/zip") {
        SECOND_LOOK
    } else {
        return None;
    };
    (next > looked).then_some(next)
}

/// What libmagic calls JSON that is cut off.
fn may_be_json(mime_type: &str) -> bool {
    mime_type.starts_with("text/") || mime_type == "application/octet-stream"
}

fn starts_like_json(head: &[u8]) -> bool {
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'['))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: usize = 16 * 1024;

    #[test]
    fn a_file_seen_whole_is_not_looked_at_again() {
        assert_eq!(
            longer_look("application/octet-stream", b"x", HEAD, HEAD as u64),
            None
        );
        assert_eq!(longer_look("text/plain", b"{", HEAD, 10), None);
    }

    #[test]
    fn what_has_no_name_gets_a_second_look_and_no_third() {
        let look = |looked| longer_look("application/octet-stream", b"x", looked, 1 << 30);
        assert_eq!(look(HEAD), Some(SECOND_LOOK));
        assert_eq!(look(SECOND_LOOK), None);
        assert_eq!(look(1 << 20), None);
        assert_eq!(
            longer_look("application/zip", b"PK", HEAD, 1 << 30),
            Some(SECOND_LOOK)
        );
        assert_eq!(longer_look("application/pdf", b"%PDF", HEAD, 1 << 30), None);
    }

    #[test]
    fn what_may_be_json_is_looked_at_whole() {
        let look = |mime_type, head| longer_look(mime_type, head, HEAD, 1 << 30);
        assert_eq!(look("text/plain", b"\n\t {\"a\"" as &[u8]), Some(WHOLE));
        assert_eq!(look("application/octet-stream", b"[1"), Some(WHOLE));
        assert_eq!(look("text/plain", b"hello {"), None);
        assert_eq!(look("application/json", b"{"), None);
        assert_eq!(longer_look("text/plain", b"{", WHOLE, 1 << 30), None);
    }
}
