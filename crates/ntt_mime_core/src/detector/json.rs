//! Whether libmagic recognizes a file as JSON.
//!
//! libmagic calls something JSON if it has parsed it to its end, or two such values of the same kind one after
//! another (`application/x-ndjson`), so a head that is cut off never is. Most files that begin with `{` or `[` are
//! something else: RTF, settings, logs, program text. Their heads contradict JSON within a few bytes, and then there
//! is no need to read on.
//!
//! This is libmagic's own parser (`json_parse` in is_json.c, the same in releases 5.44 to 5.48), including its
//! leniency: a comma before a closing bracket, `1.`, `.5`, any byte but NUL in a string. 5.41 has a simpler form of
//! it ([`Dialect`]). If a part fails, the whole fails; only where the bytes end, the result says that more of them
//! may decide otherwise. A value outside brackets isn't JSON by itself (`st` in `json_parse`).

/// What differs between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// 5.41: nothing after the first value is read, a constant is recognized by its first letter and its length (and
    /// by the byte after it), and a bracket that closes an array must directly follow the opening one, or a comma.
    Of541,
    /// 5.44 and later.
    Of544,
}

impl Dialect {
    /// The maximum of `lvl` in `json_parse`. Each bracket counts for two.
    fn levels(self) -> usize {
        match self {
            Dialect::Of541 => 20,
            Dialect::Of544 => 500,
        }
    }
}

/// What the first bytes of a file show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonVerdict {
    /// It isn't JSON, whatever follows.
    No,
    /// It is, whatever follows, and has this type.
    Yes(&'static str),
    /// It has this type if nothing follows.
    Whole(&'static str),
    /// If nothing follows it isn't JSON.
    More,
}

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// Why something isn't a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// No continuation makes it JSON.
    Contradiction,
    /// The bytes end before that is decided.
    End,
}

/// The verdict on a file with these first bytes.
pub fn verdict(dialect: Dialect, bytes: &[u8]) -> JsonVerdict {
    let mut parser = Parser {
        dialect,
        rest: bytes,
    };
    parser.skip_space();
    let first = match parser.peek() {
        None => return JsonVerdict::More,
        Some(first @ (b'{' | b'[')) => first,
        Some(_) => return JsonVerdict::No,
    };
    let of = |value: Result<(), Stop>, yes| match value {
        Ok(()) => yes,
        Err(Stop::Contradiction) => JsonVerdict::No,
        Err(Stop::End) => JsonVerdict::More,
    };
    let value = parser.value(0);
    if value.is_err() || dialect == Dialect::Of541 {
        return of(value, JsonVerdict::Yes(JSON));
    }
    parser.skip_space();
    match parser.peek() {
        None => JsonVerdict::Whole(JSON),
        Some(second) if second == first => of(parser.value(1), JsonVerdict::Yes(LINES)),
        Some(_) => JsonVerdict::No,
    }
}

/// False if libmagic's answer can't become JSON by reading more than `head`: because it isn't JSON, or because two
/// whole values are in the head and libmagic has seen them.
pub fn may_become_json(head: &[u8]) -> bool {
    let verdict = verdict(Dialect::Of544, head);
    !head.is_empty() && matches!(verdict, JsonVerdict::More | JsonVerdict::Whole(_))
}

struct Parser<'a> {
    dialect: Dialect,
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

    /// One value that begins at a level, with its own stack: the depth of the brackets is up to whoever wrote the
    /// file.
    fn value(&mut self, level: usize) -> Result<(), Stop> {
        let mut closers = Vec::new();
        loop {
            // At the start of a value, or of the contents of a bracket.
            self.skip_space();
            let first = self.next()?;
            if level + 2 * closers.len() > self.dialect.levels() {
                return Err(Stop::Contradiction);
            }
            match first {
                b'{' => {
                    closers.push(b'}');
                    if !self.enters_object()? {
                        continue;
                    }
                }
                b'[' => {
                    closers.push(b']');
                    if !self.ends_array() {
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.word(b"rue")?,
                b'f' => self.word(b"alse")?,
                b'n' => self.word(b"ull")?,
                first => self.number(first)?,
            }
            // After a value: closes brackets, until one continues with another value.
            loop {
                self.skip_space();
                let Some(closer) = closers.last() else {
                    return Ok(());
                };
                match self.next()? {
                    b',' if *closer == b']' => {
                        if !self.ends_array() {
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

    /// Whether the bracket that closes an array comes next.
    fn ends_array(&mut self) -> bool {
        if self.dialect == Dialect::Of544 {
            self.skip_space();
        }
        self.peek() == Some(b']')
    }

    /// Goes to the value of an object's next member; true if there is none, and the object's end comes next.
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
            let Some(end) = memchr::memchr3(b'"', b'\\', 0, self.rest) else {
                return Err(Stop::End);
            };
            let found = self.rest[end];
            self.rest = &self.rest[end + 1..];
            match found {
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
        if self.dialect == Dialect::Of541 {
            match self.rest.get(rest.len()..) {
                None | Some([]) => return Err(Stop::End),
                Some(behind) => self.rest = behind,
            }
            return Ok(());
        }
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
mod tests;
