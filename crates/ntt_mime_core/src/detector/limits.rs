//! Where libmagic stops: what its sources lay down and several modules go by, the same in releases 5.44 to 5.48.

/// Bytes that a regular expression is matched against: FILE_REGEX_MAX in file.h.
pub const REGEX_MAX: usize = 8192;

/// Bytes by which text is told from binary, and its encoding, and beyond which rules for text see nothing of it:
/// FILE_ENCODING_MAX in file.h.
pub const ENCODING_MAX: usize = 64 * 1024;

/// What it says of a file that no rule knows and that isn't text: `file_default` in funcs.c.
pub const DATA: &str = "application/octet-stream";

/// What it says of a text that no rule knows: `file_ascmagic_with_encoding` in ascmagic.c.
pub const PLAIN: &str = "text/plain";
