//! Requests and answers, read as strictly as RFC 9110 and 9112 allow. What two readers may take for two things is a
//! fault.

use super::chunks::chunked;
use super::escapes::shown;
use super::strict_fields::{HttpFault, StrictField, fields, line, token};

/// A request that has come whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrictRequest {
    /// Its method.
    pub method: String,
    /// Its target, with bytes that are no letters written as in a corpus.
    pub target: String,
    /// Its fields.
    pub fields: Vec<StrictField>,
    /// Its body without what frames it.
    pub body: Vec<u8>,
    /// The fields behind its body.
    pub trailers: Vec<StrictField>,
}

/// An answer that has come whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrictAnswer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Vec<StrictField>,
    /// Its body without what frames it.
    pub body: Vec<u8>,
}

/// A message, or what is there of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Come<T> {
    /// All of it, and how many bytes it took.
    Whole(T, usize),
    /// Nothing, or a part. Whether who sent it waits for a `100 Continue`.
    Part {
        /// It has `Expect: 100-continue`, and no body yet.
        expects: bool,
    },
}

impl StrictRequest {
    /// Reads a request from the beginning of `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Come<Self>, HttpFault> {
        let part = Come::Part { expects: false };
        let Some((first, taken)) = line(bytes, "the request line")? else {
            return Ok(part);
        };
        let (method, target, minor) = request_line(first)?;
        let rest = bytes.get(taken..).unwrap_or_default();
        let Some((fields, length)) = fields(rest)? else {
            return Ok(part);
        };
        let head = taken + length;
        if all(&fields, "host").count() > 1 {
            return Err("several Host fields");
        }
        let body = bytes.get(head..).unwrap_or_default();
        let mut request = Self {
            method,
            target,
            fields,
            body: Vec::new(),
            trailers: Vec::new(),
        };
        let expects = body.is_empty()
            && all(&request.fields, "expect").any(|it| it.eq_ignore_ascii_case(b"100-continue"));
        match framing(&request.fields, minor)? {
            StrictFraming::Chunked => match chunked(body)? {
                None => Ok(Come::Part { expects }),
                Some(chunks) => {
                    (request.body, request.trailers) = (chunks.body, chunks.trailers);
                    Ok(Come::Whole(request, head + chunks.length))
                }
            },
            StrictFraming::None => Ok(Come::Whole(request, head)),
            StrictFraming::Length(length) => match body.get(..length) {
                None => Ok(Come::Part { expects }),
                Some(body) => {
                    request.body = body.to_owned();
                    Ok(Come::Whole(request, head + length))
                }
            },
        }
    }

    /// The requests that follow each other in `bytes`; an error where anything else is there.
    pub fn read_all(mut bytes: &[u8]) -> Result<Vec<Self>, HttpFault> {
        let mut requests = Vec::new();
        while !bytes.is_empty() {
            match Self::read(bytes)? {
                Come::Part { .. } => return Err("it ends too soon"),
                Come::Whole(request, length) => {
                    requests.push(request);
                    bytes = bytes.get(length..).unwrap_or_default();
                }
            }
        }
        Ok(requests)
    }

    /// The values of a field.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        all(&self.fields, name)
    }
}

impl StrictAnswer {
    /// Reads the final answer from the beginning of `bytes`, and what 1xx stand before it. `is_over`: nothing more
    /// comes, so that what is framed by the end is whole.
    pub fn read(bytes: &[u8], method: &str, is_over: bool) -> Result<Come<Self>, HttpFault> {
        let mut start = 0;
        loop {
            let rest = bytes.get(start..).unwrap_or_default();
            match Self::read_one(rest, method, is_over)? {
                Come::Whole(answer, length) if answer.status / 100 == 1 && answer.status != 101 => {
                    start += length;
                }
                Come::Whole(answer, length) => return Ok(Come::Whole(answer, start + length)),
                part => return Ok(part),
            }
        }
    }

    fn read_one(bytes: &[u8], method: &str, is_over: bool) -> Result<Come<Self>, HttpFault> {
        let part = Ok(Come::Part { expects: false });
        let Some((first, taken)) = line(bytes, "the status line")? else {
            return part;
        };
        let (status, minor) = status_line(first)?;
        let rest = bytes.get(taken..).unwrap_or_default();
        let Some((fields, length)) = fields(rest)? else {
            return part;
        };
        let head = taken + length;
        let body = bytes.get(head..).unwrap_or_default();
        let mut answer = Self {
            status,
            fields,
            body: Vec::new(),
        };
        if status / 100 == 1 || matches!(status, 204 | 304) || method == "HEAD" {
            framing_or_nothing(&answer.fields, minor)?;
            return Ok(Come::Whole(answer, head));
        }
        match framing(&answer.fields, minor)? {
            StrictFraming::Chunked => match chunked(body)? {
                None => part,
                Some(chunks) => {
                    answer.body = chunks.body;
                    Ok(Come::Whole(answer, head + chunks.length))
                }
            },
            StrictFraming::Length(length) => match body.get(..length) {
                None => part,
                Some(body) => {
                    answer.body = body.to_owned();
                    Ok(Come::Whole(answer, head + length))
                }
            },
            StrictFraming::None if is_over => {
                answer.body = body.to_owned();
                Ok(Come::Whole(answer, bytes.len()))
            }
            StrictFraming::None => part,
        }
    }

    /// The first value of a field.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        all(&self.fields, name).next()
    }
}

fn all<'a>(fields: &'a [StrictField], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let named = fields.iter().filter(move |(it, _)| it == name);
    named.map(|(_, value)| value.as_slice())
}

fn request_line(text: &[u8]) -> Result<(String, String, u8), HttpFault> {
    let mut words = text.split(|it| *it == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("the request line has not three words");
    };
    if method.is_empty() || !method.iter().all(|it| token(*it)) {
        return Err("the method");
    }
    if target.is_empty() || target.contains(&b'\t') {
        return Err("the target");
    }
    let minor = minor(version)?;
    let method = String::from_utf8_lossy(method).into_owned();
    Ok((method, shown(target, usize::MAX), minor))
}

fn status_line(text: &[u8]) -> Result<(u16, u8), HttpFault> {
    let version = text.get(..8).ok_or("the status line")?;
    let minor = minor(version)?;
    let rest = text.get(8..).unwrap_or_default();
    let digits = match rest {
        [b' ', a, b, c] | [b' ', a, b, c, b' ', ..] => [*a, *b, *c],
        _ => return Err("the status line"),
    };
    let number = std::str::from_utf8(&digits).map_err(|_| "the status")?;
    match number.parse() {
        Ok(status @ 100..=999) if digits.iter().all(u8::is_ascii_digit) => Ok((status, minor)),
        _ => Err("the status"),
    }
}

fn minor(version: &[u8]) -> Result<u8, HttpFault> {
    match version {
        b"HTTP/1.0" => Ok(0),
        b"HTTP/1.1" => Ok(1),
        _ => Err("the version"),
    }
}

enum StrictFraming {
    None,
    Length(usize),
    Chunked,
}

fn framing(fields: &[StrictField], minor: u8) -> Result<StrictFraming, HttpFault> {
    let lengths: Vec<&[u8]> = all(fields, "content-length").collect();
    let codings: Vec<&[u8]> = all(fields, "transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(StrictFraming::None),
        ([_, ..], [_, ..]) => Err("Content-Length and Transfer-Encoding"),
        ([length], []) => number(length).map(StrictFraming::Length),
        (_, []) => Err("several Content-Length fields"),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => match minor {
            0 => Err("Transfer-Encoding in HTTP/1.0"),
            _ => Ok(StrictFraming::Chunked),
        },
        ([], _) => Err("Transfer-Encoding that is not chunked alone"),
    }
}

/// The fields of an answer that has no body, whatever they say of one.
fn framing_or_nothing(fields: &[StrictField], minor: u8) -> Result<(), HttpFault> {
    framing(fields, minor).map(|_| ())
}

fn number(text: &[u8]) -> Result<usize, HttpFault> {
    let text = std::str::from_utf8(text).map_err(|_| "Content-Length")?;
    let is_number = text.bytes().all(|it| it.is_ascii_digit()) && text.len() <= 15;
    match text.parse() {
        Ok(number) if is_number => Ok(number),
        _ => Err("Content-Length"),
    }
}
