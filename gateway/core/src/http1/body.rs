//! Where a body ends, in bytes that come piece by piece.

use super::chunked::{ChunkRun, ChunkedScan};
use super::defect::ChunkDefect;
use super::facts::BodyFraming;
use super::fields::FieldTable;
use super::head_scan::HeadScan;
use super::sender::Sender;
use super::trailers;

/// What follows the bytes of a body that were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyNext {
    /// More of the body.
    More,
    /// Trailers: see [`BodyScan::trailers`].
    Trailers,
    /// Nothing: it has ended.
    End,
}

/// Bytes of a body that go on as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedBody {
    /// How many of the bytes that were given.
    pub length: usize,
    /// What follows them.
    pub next: BodyNext,
}

/// Bytes of a body, of which only the data goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedBody {
    /// How many of the bytes that were given are used up.
    pub consumed: usize,
    /// How many bytes of data stand at the beginning now.
    pub kept: usize,
    /// What follows them.
    pub next: BodyNext,
}

/// Where a body has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyScan(BodyState);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Length(u64),
    UntilClose,
    Chunked(ChunkedScan),
    /// Behind the last chunk, with so many bytes of the empty line gone: 0 or 1.
    AfterLast(u8),
    Trailers(HeadScan),
    Ended,
}

impl BodyScan {
    /// A request's body, of which nothing has come.
    pub fn new(framing: BodyFraming) -> Self {
        Self::of(framing, Sender::Client)
    }

    /// An answer's body, of which nothing has come. Spaces behind a chunk's size are forgiven.
    pub fn of_answer(framing: BodyFraming) -> Self {
        Self::of(framing, Sender::Endpoint)
    }

    fn of(framing: BodyFraming, sender: Sender) -> Self {
        Self(match framing {
            BodyFraming::None | BodyFraming::Length(0) => BodyState::Ended,
            BodyFraming::Length(length) => BodyState::Length(length),
            BodyFraming::Chunked => BodyState::Chunked(ChunkedScan::new(sender)),
            BodyFraming::UntilClose => BodyState::UntilClose,
        })
    }

    /// Whether all of it has come.
    pub fn is_ended(&self) -> bool {
        self.0 == BodyState::Ended
    }

    /// Whether it is whole if the connection ends now.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.0, BodyState::Ended | BodyState::UntilClose)
    }

    /// How many of the next bytes are data, whatever they are. They may be moved on unseen: see [`BodyScan::skip`].
    pub fn pending_data(&self) -> u64 {
        match &self.0 {
            BodyState::Length(left) => *left,
            BodyState::UntilClose => u64::MAX,
            BodyState::Chunked(scan) => scan.data(),
            BodyState::AfterLast(_) | BodyState::Trailers(_) | BodyState::Ended => 0,
        }
    }

    /// So many bytes of [`BodyScan::pending_data`], and no more, have been moved on unseen.
    pub fn skip(&mut self, data: u64) {
        match &mut self.0 {
            BodyState::Length(left) => {
                *left = left.saturating_sub(data);
                if *left == 0 {
                    self.0 = BodyState::Ended;
                }
            }
            BodyState::Chunked(scan) if scan.data() > 0 => scan.take(data),
            BodyState::Chunked(_)
            | BodyState::UntilClose
            | BodyState::AfterLast(_)
            | BodyState::Trailers(_)
            | BodyState::Ended => {}
        }
    }

    /// Takes the bytes that go on as they are, as many as there are. What comes behind the body's end is not taken.
    ///
    /// # Errors
    /// The chunks are malformed. What was taken before may go on, if the connections end afterwards.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<PassedBody, ChunkDefect> {
        let mut length = 0;
        loop {
            let rest = bytes.get(length..).unwrap_or_default();
            match self.next(rest)? {
                BodyRun::Part(0, _) => return Ok(self.passed(length)),
                BodyRun::Part(more, _) => length += more,
                BodyRun::Stop(next) => return Ok(PassedBody { length, next }),
            }
        }
    }

    fn passed(&self, length: usize) -> PassedBody {
        PassedBody {
            length,
            next: BodyNext::More,
        }
    }

    /// Takes the bytes and moves the data to their beginning.
    ///
    /// # Errors
    /// The chunks are malformed.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<DecodedBody, ChunkDefect> {
        let (mut consumed, mut kept) = (0, 0);
        let next = loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            match self.next(rest)? {
                BodyRun::Part(0, _) => break BodyNext::More,
                BodyRun::Part(more, is_data) => {
                    if is_data {
                        if kept != consumed {
                            bytes.copy_within(consumed..consumed + more, kept);
                        }
                        kept += more;
                    }
                    consumed += more;
                }
                BodyRun::Stop(next) => break next,
            }
        };
        Ok(DecodedBody {
            consumed,
            kept,
            next,
        })
    }

    /// Reads the trailers that `bytes` begin with, once they are whole. Appends those that may go on, where `passes` says so,
    /// and the empty line that ends the body in any case. Returns how many bytes they have; none: more have to come. The same
    /// bytes have to be given again then, with more.
    ///
    /// # Errors
    /// They are malformed or too large.
    pub fn trailers(
        &mut self,
        bytes: &[u8],
        passes: bool,
        table: &mut FieldTable,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, ChunkDefect> {
        let BodyState::Trailers(scan) = &mut self.0 else {
            return Ok(Some(0));
        };
        let length = trailers::read(scan, bytes, passes, table, out);
        let length = length.map_err(ChunkDefect::Trailers)?;
        if length.is_some() {
            self.0 = BodyState::Ended;
        }
        Ok(length)
    }

    /// What the bytes begin with. It is taken.
    fn next(&mut self, bytes: &[u8]) -> Result<BodyRun, ChunkDefect> {
        match &mut self.0 {
            BodyState::Ended => Ok(BodyRun::Stop(BodyNext::End)),
            BodyState::Trailers(_) => Ok(BodyRun::Stop(BodyNext::Trailers)),
            BodyState::UntilClose => Ok(BodyRun::Part(bytes.len(), true)),
            BodyState::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX);
                let length = length.min(bytes.len());
                self.skip(length as u64);
                Ok(BodyRun::Part(length, true))
            }
            BodyState::Chunked(scan) => Ok(match scan.next(bytes)? {
                ChunkRun::Framing(length) => BodyRun::Part(length, false),
                ChunkRun::Data(length) => BodyRun::Part(length, true),
                ChunkRun::Last => {
                    self.0 = BodyState::AfterLast(0);
                    return self.next(bytes);
                }
            }),
            BodyState::AfterLast(0) => match bytes {
                [] => Ok(BodyRun::Part(0, false)),
                [b'\r', b'\n', ..] => {
                    self.0 = BodyState::Ended;
                    Ok(BodyRun::Part(2, false))
                }
                [b'\r'] => {
                    self.0 = BodyState::AfterLast(1);
                    Ok(BodyRun::Part(1, false))
                }
                [b'\r' | b'\n', ..] => Err(ChunkDefect::LineEnd),
                _ => {
                    self.0 = BodyState::Trailers(HeadScan::default());
                    Ok(BodyRun::Stop(BodyNext::Trailers))
                }
            },
            BodyState::AfterLast(_) => match bytes {
                [] => Ok(BodyRun::Part(0, false)),
                [b'\n', ..] => {
                    self.0 = BodyState::Ended;
                    Ok(BodyRun::Part(1, false))
                }
                _ => Err(ChunkDefect::LineEnd),
            },
        }
    }
}

/// The beginning of some bytes of a body.
enum BodyRun {
    /// So many bytes, and whether they are data. None where there are no more.
    Part(usize, bool),
    /// None of the bytes.
    Stop(BodyNext),
}
