//! Finds the end of a head in bytes that come piece by piece, each of which is looked at once.

use memchr::memchr;

use super::defect::HeadDefect;
use super::grammar::is_token_octet;
use super::sender::Sender;

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The most bytes, the empty line at the end included.
    pub bytes: usize,
    /// The most fields.
    pub fields: usize,
}

impl Default for HeadLimits {
    /// 64 KiB and 256 fields.
    fn default() -> Self {
        Self {
            bytes: 64 * 1024,
            fields: 256,
        }
    }
}

/// How far a head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadProgress {
    /// More bytes have to come.
    Incomplete,
    /// It is whole, and has so many bytes. They are not checked yet.
    Complete(usize),
    /// The connection begins with the preface of HTTP/2 (RFC 9113, section 3.4), which has come wholly.
    Http2,
}

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most empty lines that are skipped before a request. RFC 9112, section 2.2, has one in mind; old clients send one
/// after each body.
const EMPTY_LINES: u32 = 8;

/// Where the search for the end of a head goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// The bytes before it have been searched for the end of a line.
    searched: u32,
    /// Where the line begins that has not ended yet.
    line: u32,
    /// Where the head begins, after empty lines.
    start: u32,
    /// How many lines have ended.
    lines: u32,
}

impl HeadScan {
    /// Looks at what has come of a request. `bytes` are all since the answer before it; they may be more than the head.
    ///
    /// # Errors
    /// It can't become a head that is taken.
    pub fn request(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<HeadProgress, HeadDefect> {
        if self.lines == 0 {
            self.skip_empty_lines(bytes)?;
            let head = bytes.get(self.start as usize..).unwrap_or_default();
            match head.first() {
                None | Some(b'\r') => return Ok(HeadProgress::Incomplete),
                Some(first) if !is_token_octet(*first) => return Err(HeadDefect::Method),
                // No line ends here.
                Some(_) => self.searched = self.searched.max(self.start + 1),
            }
            if self.start == 0 && bytes.starts_with(b"PRI ") {
                if bytes.starts_with(PREFACE) {
                    return Ok(HeadProgress::Http2);
                }
                if PREFACE.starts_with(bytes) {
                    return Ok(HeadProgress::Incomplete);
                }
            }
        }
        self.find_end(bytes, limits, Sender::Client)
    }

    /// Looks at what has come of an answer. `bytes` are all that have not been taken by an answer before it.
    ///
    /// # Errors
    /// It can't become a head that is taken.
    pub fn answer(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<HeadProgress, HeadDefect> {
        const BEGINS: &[u8] = b"HTTP/1.";
        if self.lines == 0 && !bytes.starts_with(BEGINS) && !BEGINS.starts_with(bytes) {
            return Err(HeadDefect::FirstLine);
        }
        self.find_end(bytes, limits, Sender::Endpoint)
    }

    /// Looks at what has come of trailers: lines up to an empty one, which may be the first.
    pub(super) fn trailers(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<HeadProgress, HeadDefect> {
        // There is no first line that is not a field.
        self.lines = self.lines.max(1);
        self.find_end(bytes, limits, Sender::Client)
    }

    /// Whether anything of a head has come, but empty lines.
    pub fn has_begun(&self) -> bool {
        self.searched > self.start
    }

    fn skip_empty_lines(&mut self, bytes: &[u8]) -> Result<(), HeadDefect> {
        loop {
            match bytes.get(self.start as usize..).unwrap_or_default() {
                [b'\r', b'\n', ..] if self.start >= 2 * EMPTY_LINES => {
                    return Err(HeadDefect::EmptyLines);
                }
                [b'\r', b'\n', ..] => {
                    self.start += 2;
                    self.line = self.start;
                    self.searched = self.start;
                }
                // The next byte tells.
                [b'\r'] => return Ok(()),
                [b'\r' | b'\n', ..] => return Err(HeadDefect::LineEnd),
                _ => return Ok(()),
            }
        }
    }

    fn find_end(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        sender: Sender,
    ) -> Result<HeadProgress, HeadDefect> {
        let within = bytes.get(..limits.bytes).unwrap_or(bytes);
        while let Some(rest) = within.get(self.searched as usize..)
            && let Some(at) = memchr(b'\n', rest)
        {
            let end = self.searched as usize + at;
            let line = within.get(self.line as usize..end).unwrap_or_default();
            let line = match (line, sender) {
                ([line @ .., b'\r'], _) | (line, Sender::Endpoint) => line,
                (_, Sender::Client) => return Err(HeadDefect::LineEnd),
            };
            // What is shorter than the limit fits; the limit is below 4 GiB in any case.
            self.searched = u32::try_from(end + 1).unwrap_or(u32::MAX);
            self.line = self.searched;
            if line.is_empty() {
                return Ok(HeadProgress::Complete(end + 1));
            }
            self.lines += 1;
            if self.lines as usize > limits.fields + 1 {
                return Err(HeadDefect::TooManyFields);
            }
        }
        self.searched = u32::try_from(within.len()).unwrap_or(u32::MAX);
        match (bytes.len() >= limits.bytes, self.lines) {
            (false, _) => Ok(HeadProgress::Incomplete),
            (true, 0) => Err(HeadDefect::LineTooLong),
            (true, _) => Err(HeadDefect::TooLarge),
        }
    }
}
