//! `fairway.dev/health-check`: what is asked, then options, each after a semicolon:
//! `http:/healthz;host=a.example;status=200-299;interval=5s`.
//!
//! | what is asked | options of its own |
//! |---|---|
//! | `tcp` | `send`, `expect`: texts with `\r`, `\n`, `\t`, `\\` and `\xHH` (`\x2c` is a comma, `\x3b` a semicolon) |
//! | `http:/PATH`, `https:/PATH` | `host`, `status` (`200` or `200-399`) |
//! | `grpc`, `grpc:SERVICE` | |
//! | `none` | no check, where an entry for more ports says one |
//!
//! All have `interval`, `timeout` (`500ms`, `2s`, `1m`), `rise`, `fall` and `port`.

use std::sync::Arc;
use std::time::Duration;

use super::OptionReader;
use crate::annotations::{HEALTH_CHECK, parse};
use crate::field::Shown;
use crate::health_check::{CheckKind, EndpointCheck, StatusCodes};
use crate::net::Protocol;
use crate::service::{Notice, ServicePort};

/// The intervals that can be asked for.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_hours(1);
/// The shortest time-out.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
/// The longest time-out: so long a probe may hold a socket.
const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);
/// The most of `rise` and `fall`.
const MOST_IN_A_ROW: u16 = 1000;
/// The longest path, host, service, and text to send or to expect.
const LONGEST_TEXT: usize = 1024;

impl OptionReader<'_> {
    /// Sets how the endpoints of each port are checked. An entry that can't be read leaves its ports without a check.
    pub(super) fn health_checks(&mut self, ports: &mut [ServicePort]) {
        let so = "no check is made of the endpoints of these ports";
        self.each(HEALTH_CHECK, ports, read, so, |port, check| {
            port.options.health_check.clone_from(check);
        });
        for port in ports {
            let asks =
                |check: &Arc<EndpointCheck>| port.protocol != Protocol::Tcp && check.port.is_none();
            if port.options.health_check.as_ref().is_some_and(asks) {
                port.options.health_check = None;
                let message = format!(
                    "{HEALTH_CHECK} is for port {}, too, and checks go by TCP: name the TCP port to ask (port=8080), or \
                     say {}=none; no check is made of its endpoints",
                    port.key(),
                    port.key(),
                );
                self.notices.push(Notice::new("InvalidAnnotation", message));
            }
        }
    }
}

/// Reads one value; none: `none`. The error ends a sentence that begins with the value.
fn read(text: &str) -> Result<Option<Arc<EndpointCheck>>, String> {
    let mut parts = text.split(';').map(str::trim);
    let what = parts.next().unwrap_or_default();
    let mut options = Vec::new();
    for option in parts.filter(|it| !it.is_empty()) {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("where option '{}' has no value", Shown(option)))?;
        let (name, value) = (name.trim(), value.trim());
        if options.iter().any(|(other, _)| *other == name) {
            return Err(format!("which has option '{}' twice", Shown(name)));
        }
        options.push((name, value));
    }
    let mut options = CheckOptions(options);
    let Some(kind) = kind(what, &mut options)? else {
        return match options.0.first() {
            Some(_) => Err("where none has options".to_owned()),
            None => Ok(None),
        };
    };
    let interval = options.time("interval", SHORTEST, LONGEST)?;
    let interval = interval.unwrap_or(EndpointCheck::INTERVAL);
    let timeout = options.time("timeout", SHORTEST_TIMEOUT, LONGEST_TIMEOUT)?;
    let timeout = timeout.unwrap_or_else(|| EndpointCheck::default_timeout(interval));
    if timeout > interval {
        return Err("whose timeout is longer than its interval".to_owned());
    }
    let check = EndpointCheck {
        interval,
        timeout,
        rise: options
            .number("rise", MOST_IN_A_ROW)?
            .unwrap_or(EndpointCheck::RISE),
        fall: options
            .number("fall", MOST_IN_A_ROW)?
            .unwrap_or(EndpointCheck::FALL),
        port: options.number("port", u16::MAX)?,
        kind,
    };
    match options.0.first() {
        Some((name, _)) => Err(format!(
            "where '{}' is no option of {}",
            Shown(name),
            check.kind
        )),
        None => Ok(Some(Arc::new(check))),
    }
}

/// What is asked, with the options that belong to it; none: `none`.
fn kind(what: &str, options: &mut CheckOptions<'_>) -> Result<Option<CheckKind>, String> {
    let (name, rest) = match what.split_once(':') {
        Some((name, rest)) => (name, Some(rest)),
        None => (what, None),
    };
    let kind = match (name, rest) {
        ("none", None) => return Ok(None),
        ("tcp", None) => CheckKind::Tcp {
            send: options.bytes("send")?,
            expect: options.bytes("expect")?,
        },
        ("http" | "https", Some(path)) if is_path(path) => CheckKind::Http {
            is_tls: name == "https",
            path: path.into(),
            host: options.host()?,
            status: options.status()?,
        },
        ("http" | "https", _) => {
            return Err(format!("must say the path of a URL, as in {name}:/healthz"));
        }
        ("grpc", service) => {
            let service = service.unwrap_or_default();
            let inside = |it: u8| it.is_ascii_alphanumeric() || b"._-/".contains(&it);
            if service.len() > LONGEST_TEXT || !service.bytes().all(inside) {
                return Err("must name a gRPC service, as in grpc:shop.v1.Cart".to_owned());
            }
            CheckKind::Grpc {
                service: service.into(),
            }
        }
        _ => {
            return Err(
                "must be tcp, http:/PATH, https:/PATH, grpc, grpc:SERVICE or none, with options after semicolons"
                    .to_owned(),
            );
        }
    };
    Ok(Some(kind))
}

/// The options of one check that were not taken yet.
struct CheckOptions<'a>(Vec<(&'a str, &'a str)>);

impl<'a> CheckOptions<'a> {
    fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(it, _)| *it == name)?;
        Some(self.0.remove(at).1)
    }

    fn time(
        &mut self,
        name: &str,
        shortest: Duration,
        longest: Duration,
    ) -> Result<Option<Duration>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let time = parse::duration(text).filter(|it| (shortest..=longest).contains(it));
        time.map(Some).ok_or_else(|| {
            let (least, most) = (shortest.as_millis(), longest.as_secs());
            format!("whose {name} must be a time from {least}ms to {most}s, as in 2s or 500ms")
        })
    }

    /// A whole number from 1 on.
    fn number(&mut self, name: &str, most: u16) -> Result<Option<u16>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|it| (1..=most).contains(it));
        number
            .map(Some)
            .ok_or_else(|| format!("whose {name} must be a whole number from 1 to {most}"))
    }

    fn bytes(&mut self, name: &str) -> Result<Box<[u8]>, String> {
        let text = self.take(name).unwrap_or_default();
        unescape(text)
            .filter(|it| it.len() <= LONGEST_TEXT)
            .map(Vec::into_boxed_slice)
            .ok_or_else(|| {
                format!(
                    "whose {name} must be at most {LONGEST_TEXT} bytes, with \\r, \\n, \\t, \\\\ or \\xHH for those that \
                     can't be written"
                )
            })
    }

    fn host(&mut self) -> Result<Option<Box<str>>, String> {
        let Some(text) = self.take("host") else {
            return Ok(None);
        };
        if is_host(text) {
            Ok(Some(text.into()))
        } else {
            Err("whose host must be a name or an address, with a port or without".to_owned())
        }
    }

    fn status(&mut self) -> Result<StatusCodes, String> {
        let Some(text) = self.take("status") else {
            return Ok(StatusCodes::default());
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let code = |text: &str| {
            let code: Option<u16> = text.trim().parse().ok();
            code.filter(|it| (100..=599).contains(it))
        };
        match (code(first), code(last)) {
            (Some(first), Some(last)) if first <= last => Ok(StatusCodes { first, last }),
            _ => Err(
                "whose status must be a code or a range of them, as in 200 or 200-399".to_owned(),
            ),
        }
    }
}

/// Whether it can stand in the first line of a request: what RFC 3986 allows in path and query. Commas and semicolons,
/// which end a value here, are written %2C and %3B.
fn is_path(text: &str) -> bool {
    let inside = |it: u8| it.is_ascii_alphanumeric() || b"-._~!$&'()*+:@%/?=".contains(&it);
    text.starts_with('/')
        && !text.starts_with("//")
        && text.len() <= LONGEST_TEXT
        && text.bytes().all(inside)
}

/// Whether it is a name or an address, with a port or without.
fn is_host(text: &str) -> bool {
    let is_alone = |text: &str| {
        let bracketed = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => parse::is_hostname(text) || text.parse::<std::net::Ipv4Addr>().is_ok(),
        }
    };
    is_alone(text)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            is_alone(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

/// The bytes that a text stands for.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
