//! The end of a file, which some rules look at.
//!
//! libmagic reads as many bytes there as it has read at the start (`buffer_fill` in src/buffer.c), once a rule asks. A
//! rule's first test looks at the last few only, and those few are all that is read here, and only if the walk over
//! the rules comes that far.

/// The furthest that any rule looks back is 56 bytes, in the databases of 5.44 to 5.47.
pub const MOST: usize = 64;

/// The last bytes of a file, read when they are asked for.
pub struct End<'a> {
    length: usize,
    front: bool,
    read: &'a mut dyn FnMut(&mut [u8]) -> bool,
    bytes: [u8; MOST],
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unread,
    Read,
    Unreadable,
}

impl<'a> End<'a> {
    /// The end of a file of which libmagic reads the first `length` bytes; `front` if that is all it has. `read` fills
    /// a buffer with the file's last bytes, and says whether it could.
    pub fn new(length: usize, front: bool, read: &'a mut dyn FnMut(&mut [u8]) -> bool) -> End<'a> {
        End {
            length,
            front,
            read,
            bytes: [0; MOST],
            state: State::Unread,
        }
    }

    /// Is it the same as what is read at the start?
    pub fn is_front(&self) -> bool {
        self.front
    }

    /// How far back libmagic can look.
    pub fn length(&self) -> usize {
        self.length
    }

    /// As many of the last bytes as are kept; None if they can't be read.
    pub fn bytes(&mut self) -> Option<&[u8]> {
        if self.state == State::Unread {
            let kept = self.length.min(MOST);
            self.state = match (self.read)(&mut self.bytes[..kept]) {
                true => State::Read,
                false => State::Unreadable,
            };
        }
        self.read_bytes()
    }

    /// Those bytes, if they have been read.
    pub fn read_bytes(&self) -> Option<&[u8]> {
        (self.state == State::Read).then(|| &self.bytes[..self.length.min(MOST)])
    }
}
