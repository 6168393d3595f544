//! Text in units of two or four bytes, UTF-16 and UTF-32, as libmagic reads and converts it.
//!
//! `file_encoding` (src/encoding.c, 5.41 to 5.47) recognizes as UTF-32, and then as UTF-16, what begins with the
//! corresponding byte order mark and has no unit that doesn't occur in text. An incomplete unit at the end is
//! ignored. So if some bytes of a file aren't such a text, more of them aren't either. And what begins with the mark
//! of UTF-32 and isn't UTF-32 isn't UTF-16, which has no zero. `encode_utf8` (src/ascmagic.c) then converts the units
//! to UTF-8, including those that aren't characters.

use crate::detector::release::Library;

/// The size and byte order of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    bytes: usize,
    big_endian: bool,
}

/// Whether a unit occurs in text: of those of ASCII, the bytes that do (`text_chars` in encoding.c).
fn is_of_text(library: &Library, unit: u32) -> bool {
    matches!(unit, 0x07..=0x0D | 0x1B | 0x20..=0x7E | 128..)
        || unit == 0x1A && library.control_z_is_text
}

impl Wide {
    /// Determined by the byte order mark at the beginning.
    pub fn of(bytes: &[u8]) -> Option<Wide> {
        let (bytes, big_endian) = match bytes {
            [0xFF, 0xFE, 0, 0, ..] => (4, false),
            [0, 0, 0xFE, 0xFF, ..] => (4, true),
            [0xFF, 0xFE, ..] => (2, false),
            [0xFE, 0xFF, ..] => (2, true),
            _ => return None,
        };
        Some(Wide { bytes, big_endian })
    }

    /// Whether what begins with the mark is text, as far as these bytes go.
    pub fn is_text(self, library: &Library, bytes: &[u8]) -> bool {
        self.units(library, bytes, |_| {})
    }

    /// Converted to UTF-8. None if it isn't text, or has a unit that isn't converted (`encode_utf8`).
    pub fn convert(self, library: &Library, bytes: &[u8], to: &mut Vec<u8>) -> Option<()> {
        to.clear();
        to.reserve(bytes.len() / 2);
        let mut converted = true;
        let is_text = self.units(library, bytes, |unit| converted &= encode(unit, to));
        (is_text && converted).then_some(())
    }

    /// Goes over what is in `ubuf` afterwards; false if it isn't text.
    fn units(self, library: &Library, bytes: &[u8], each: impl FnMut(u32)) -> bool {
        match (self.bytes, self.big_endian) {
            (4, false) => units_of_four(library, bytes, u32::from_le_bytes, each),
            (4, true) => units_of_four(library, bytes, u32::from_be_bytes, each),
            (_, false) => units_of_two(library, bytes, u16::from_le_bytes, each),
            (_, true) => units_of_two(library, bytes, u16::from_be_bytes, each),
        }
    }
}

/// `looks_ucs32`.
fn units_of_four(
    library: &Library,
    bytes: &[u8],
    number: impl Fn([u8; 4]) -> u32,
    mut each: impl FnMut(u32),
) -> bool {
    let (units, _) = bytes.as_chunks::<4>();
    units.iter().skip(1).all(|unit| {
        let unit = number(*unit);
        each(unit);
        unit != 0xFFFE && is_of_text(library, unit)
    })
}

/// `looks_ucs16`. The first half of a pair is also converted by itself.
fn units_of_two(
    library: &Library,
    bytes: &[u8],
    number: impl Fn([u8; 2]) -> u16,
    mut each: impl FnMut(u32),
) -> bool {
    let (units, _) = bytes.as_chunks::<2>();
    // The value of the first half of a pair.
    let mut high = None;
    units.iter().skip(1).all(|unit| {
        let unit = u32::from(number(*unit));
        if !library.pairs_of_units {
            each(unit);
            return unit != 0xFFFE && is_of_text(library, unit);
        }
        let is_low = (0xDC00..=0xDFFF).contains(&unit);
        let unit = match high.take() {
            _ if matches!(unit, 0xFDD0..=0xFDEF | 0xFFFE | 0xFFFF) => return false,
            None if is_low => return false,
            None => unit,
            Some(high) if is_low => high + (unit - 0xDC00),
            Some(_) => return false,
        };
        if let 0xD800..=0xDBFF = unit {
            high = Some(0x10000 + 0x400 * (unit - 0xD800));
        }
        each(unit);
        is_of_text(library, unit)
    })
}

/// One unit in UTF-8, in its original form before it was limited to 0x10FFFF; false if there is none.
fn encode(unit: u32, to: &mut Vec<u8>) -> bool {
    let (first, more) = match unit {
        ..0x80 => {
            to.push(unit as u8);
            return true;
        }
        0x80..0x800 => (0xC0, 1),
        0x800..0x1_0000 => (0xE0, 2),
        0x1_0000..0x20_0000 => (0xF0, 3),
        0x20_0000..0x400_0000 => (0xF8, 4),
        0x400_0000..0x8000_0000 => (0xFC, 5),
        _ => return false,
    };
    to.push(first | (unit >> (6 * more)) as u8);
    to.extend(
        (0..more)
            .rev()
            .map(|n| 0x80 | (unit >> (6 * n)) as u8 & 0x3F),
    );
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::release::LIBRARIES;

    const OF_541: &Library = &LIBRARIES[0];
    const OF_544: &Library = &LIBRARIES[1];
    const OF_547: &Library = &LIBRARIES[4];

    fn converted(library: &Library, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        Wide::of(bytes)?.convert(library, bytes, &mut text)?;
        Some(text)
    }

    fn utf16(units: &[u16]) -> Vec<u8> {
        let units = [0xFEFF].iter().chain(units);
        units.flat_map(|unit| unit.to_le_bytes()).collect()
    }

    #[test]
    fn both_byte_orders_and_widths_are_read() {
        let text = Some("a\u{fc}\u{20ac}".as_bytes().to_vec());
        for bytes in [
            &b"\xFF\xFEa\0\xFC\0\xAC\x20"[..],
            b"\xFE\xFF\0a\0\xFC\x20\xAC",
            b"\xFF\xFE\0\0a\0\0\0\xFC\0\0\0\xAC\x20\0\0",
            b"\0\0\xFE\xFF\0\0\0a\0\0\0\xFC\0\0\x20\xAC",
            // An incomplete unit is ignored.
            b"\xFF\xFEa\0\xFC\0\xAC\x20\x01",
        ] {
            assert_eq!(converted(OF_544, bytes), text, "{bytes:02x?}");
        }
        assert_eq!(converted(OF_544, b"\xFF\xFE"), Some(Vec::new()));
        assert_eq!(Wide::of(b"\0\0\xFE"), None);
        assert_eq!(Wide::of(b"text"), None);
    }

    #[test]
    fn pairs_are_read_by_later_releases() {
        let pair = utf16(&[0xD83D, 0xDE00]);
        let both = b"\xED\xA0\xBD\xF0\x9F\x98\x80".to_vec();
        assert_eq!(converted(OF_544, &pair), Some(both));
        let halves = b"\xED\xA0\xBD\xED\xB8\x80".to_vec();
        assert_eq!(converted(OF_541, &pair), Some(halves));
        // One half, the other half, no character.
        for (units, expected) in [
            (&[0xD83D][..], true),
            (&[0xD83D, 0x61], false),
            (&[0xD83D, 0xD83D], false),
            (&[0xDE00], false),
            (&[0xFDD0], false),
            (&[0xFFFF], false),
        ] {
            let bytes = utf16(units);
            assert_eq!(converted(OF_544, &bytes).is_some(), expected, "{units:x?}");
            assert!(converted(OF_541, &bytes).is_some(), "{units:x?}");
        }
        assert_eq!(converted(OF_541, &utf16(&[0xFFFE])), None);
    }

    #[test]
    fn control_characters_are_in_no_text() {
        for (unit, expected) in [
            (0, false),
            (9, true),
            (0x1A, false),
            (0x7F, false),
            (0x85, true),
        ] {
            assert_eq!(converted(OF_544, &utf16(&[0x78, unit])).is_some(), expected);
        }
        assert!(converted(OF_547, &utf16(&[0x1A])).is_some());
    }

    #[test]
    fn units_of_four_bytes_are_converted_up_to_31_bits() {
        let of = |unit: u32| {
            let bytes = [b"\xFF\xFE\0\0", unit.to_le_bytes().as_slice()].concat();
            converted(OF_544, &bytes)
        };
        assert_eq!(of(0x7FFF_FFFF), Some(b"\xFD\xBF\xBF\xBF\xBF\xBF".to_vec()));
        assert_eq!(of(0x3FF_FFFF), Some(b"\xFB\xBF\xBF\xBF\xBF".to_vec()));
        assert_eq!(of(0x8000_0000), None);
        assert_eq!(of(0xFFFE), None);
    }
}
