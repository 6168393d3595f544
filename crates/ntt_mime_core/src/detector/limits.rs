//! libmagic's fixed limits on which several modules depend, the same in releases 5.44 to 5.48.

/// The number of bytes against which a regular expression is matched: FILE_REGEX_MAX in file.h.
pub const REGEX_MAX: usize = 8192;

/// The number of bytes by which text is distinguished from binary content, and its encoding is determined; rules for
/// text see nothing beyond them: FILE_ENCODING_MAX in file.h.
pub const ENCODING_MAX: usize = 64 * 1024;

/// The type of a file that no rule knows and that isn't text: `file_default` in funcs.c.
pub const DATA: &str = "application/octet-stream";

/// The type of a text that no rule knows: `file_ascmagic_with_encoding` in ascmagic.c.
pub const PLAIN: &str = "text/plain";
