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
mod tests;
