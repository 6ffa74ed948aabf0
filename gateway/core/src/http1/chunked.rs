//! Reads a body in chunks (RFC 9112, section 7.1), byte by byte in its lines and in one go in its data. Everything that is
//! not exactly as the RFC has it is refused: what two readers take for different ends becomes two requests.

use super::defect::ChunkDefect;
use super::grammar::is_token_octet;
use super::sender::Sender;

/// The most digits of a size.
const DIGITS: u8 = 16;

/// The largest size. Many a server would read a larger one as a negative number.
const LARGEST: u64 = i64::MAX.unsigned_abs();

/// How many bytes of extensions may have come without data. Each byte of data makes room for two. (A sender could keep us
/// busy with a byte of data in a kilobyte of extensions: CVE-2023-39326.)
const EXTENSIONS: u32 = 16 * 1024;

/// What the next bytes of a chunked body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkRun {
    /// So many bytes that say how long the data is.
    Framing(usize),
    /// So many bytes of data.
    Data(usize),
    /// The last chunk was there. What follows, if it is no empty line, are trailers.
    Last,
}

/// Where a chunked body has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkedScan {
    state: ChunkState,
    /// The size of the chunk as far as it was read, or what of its data has still to come.
    left: u64,
    digits: u8,
    extensions: u32,
    sender: Sender,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Size,
    /// Spaces or tabs, with `;` to come (BWS of RFC 9112, section 7.1.1).
    BeforeExtension,
    /// Behind `;`.
    NameStart,
    Name,
    AfterName,
    /// Behind `=`.
    ValueStart,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Last,
}

impl ChunkedScan {
    pub(super) fn new(sender: Sender) -> Self {
        Self {
            sender,
            state: ChunkState::Size,
            left: 0,
            digits: 0,
            extensions: 0,
        }
    }

    /// How many of the next bytes are data.
    pub(super) fn data(&self) -> u64 {
        match self.state {
            ChunkState::Data => self.left,
            _ => 0,
        }
    }

    /// So much data was taken.
    pub(super) fn take(&mut self, data: u64) {
        self.left = self.left.saturating_sub(data);
        let room = u32::try_from(data.saturating_mul(2)).unwrap_or(u32::MAX);
        self.extensions = self.extensions.saturating_sub(room);
        if self.left == 0 {
            self.state = ChunkState::DataCr;
        }
    }

    /// What the bytes begin with. It is taken. With no bytes it is framing of none, or the last chunk.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<ChunkRun, ChunkDefect> {
        match self.state {
            ChunkState::Data => {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX);
                let length = length.min(bytes.len());
                self.take(length as u64);
                return Ok(ChunkRun::Data(length));
            }
            ChunkState::Last => return Ok(ChunkRun::Last),
            _ => {}
        }
        for (at, octet) in bytes.iter().enumerate() {
            self.state = self.step(*octet)?;
            if matches!(self.state, ChunkState::Data | ChunkState::Last) {
                return Ok(ChunkRun::Framing(at + 1));
            }
        }
        Ok(ChunkRun::Framing(bytes.len()))
    }

    fn step(&mut self, octet: u8) -> Result<ChunkState, ChunkDefect> {
        use ChunkState::*;
        let is_space = matches!(octet, b' ' | b'\t');
        let next = match (self.state, octet) {
            (Size, _) if octet.is_ascii_hexdigit() => return self.digit(octet),
            (Size, _) if self.digits == 0 => return Err(ChunkDefect::Size),
            (Size | Name | Value | AfterQuoted, b'\r') => return Ok(SizeLf),
            // Some servers write a size into a field of so many bytes (old Apache does).
            (BeforeExtension, b'\r') if self.sender == Sender::Endpoint => return Ok(SizeLf),
            (SizeLf, b'\n') => return Ok(self.begin()),
            (DataCr, b'\r') => return Ok(DataLf),
            (DataCr, _) => return Err(ChunkDefect::NoChunkEnd),
            (DataLf, b'\n') => return Ok(Size),
            (SizeLf | DataLf, _) | (_, b'\n' | b'\r') => return Err(ChunkDefect::LineEnd),
            (Size, b';') => NameStart,
            (Size, _) if is_space => BeforeExtension,
            (Size, _) => return Err(ChunkDefect::Size),
            (BeforeExtension, _) if is_space => BeforeExtension,
            (BeforeExtension | Name | AfterName | Value | AfterQuoted, b';') => NameStart,
            (NameStart, _) if is_space => NameStart,
            (NameStart | Name, _) if is_token_octet(octet) => Name,
            (Name | AfterName, b'=') => ValueStart,
            (Name | AfterName, _) if is_space => AfterName,
            (ValueStart, _) if is_space => ValueStart,
            (ValueStart, b'"') => Quoted,
            (ValueStart | Value, _) if is_token_octet(octet) => Value,
            (Value | AfterQuoted, _) if is_space => BeforeExtension,
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | b' '..=b'~' | 0x80..) => Quoted,
            _ => return Err(ChunkDefect::Extension),
        };
        self.extensions += 1;
        match self.extensions > EXTENSIONS {
            true => Err(ChunkDefect::ExtensionsTooLong),
            false => Ok(next),
        }
    }

    fn digit(&mut self, octet: u8) -> Result<ChunkState, ChunkDefect> {
        let digit = match octet {
            b'0'..=b'9' => octet - b'0',
            _ => (octet | 0x20) - b'a' + 10,
        };
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        if self.digits > DIGITS || self.left > LARGEST {
            return Err(ChunkDefect::Size);
        }
        Ok(ChunkState::Size)
    }

    fn begin(&mut self) -> ChunkState {
        self.digits = 0;
        match self.left {
            0 => ChunkState::Last,
            _ => ChunkState::Data,
        }
    }
}
