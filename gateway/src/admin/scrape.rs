//! `/metrics`: in the format and the encoding that the scraper asks for.

use std::io::Write as _;

use axum::body::Bytes;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::metrics::exposition::{self, Format};

/// The answer with this text, which is in Prometheus' format.
pub(super) fn answer(text: String, asked: &HeaderMap) -> Response {
    let format = format(asked);
    let text = match format {
        Format::Prometheus => text,
        Format::OpenMetrics => exposition::openmetrics(&text),
    };
    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_static(format.content_type());
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    let body = match gzip(asked).then(|| compress(&text)).flatten() {
        Some(compressed) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Bytes::from(compressed)
        }
        None => Bytes::from(text),
    };
    (headers, body).into_response()
}

/// OpenMetrics where it is asked for by name and wanted at least as much as Prometheus' format.
fn format(asked: &HeaderMap) -> Format {
    let wanted = |kind: &str| quality(asked, ACCEPT, kind);
    match wanted("application/openmetrics-text") {
        Some(openmetrics) if openmetrics > 0.0 => {
            if wanted("text/plain").is_some_and(|text| text > openmetrics) {
                Format::Prometheus
            } else {
                Format::OpenMetrics
            }
        }
        _ => Format::Prometheus,
    }
}

fn gzip(asked: &HeaderMap) -> bool {
    let wanted = quality(asked, ACCEPT_ENCODING, "gzip");
    let any = || quality(asked, ACCEPT_ENCODING, "*");
    wanted.or_else(any).is_some_and(|quality| quality > 0.0)
}

/// How much something is wanted (RFC 9110, section 12.4.2); nothing where it is not named.
fn quality(asked: &HeaderMap, header: HeaderName, name: &str) -> Option<f32> {
    let lines = asked.get_all(header).into_iter();
    let mut choices = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    choices.find_map(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(name) {
            return None;
        }
        let mut parameters = parts.filter_map(|part| part.split_once('='));
        let quality = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
        let quality = quality.map(|(_, value)| value.trim().parse());
        // One that can't be read wants nothing.
        Some(quality.map_or(1.0, |quality| quality.unwrap_or(0.0)))
    })
}

/// The text compressed, quickly rather than well: most of it are the same labels again and again.
fn compress(text: &str) -> Option<Vec<u8>> {
    let room = Vec::with_capacity(text.len() / 8);
    let mut encoder = GzEncoder::new(room, Compression::fast());
    // Writing to a Vec can't fail.
    encoder.write_all(text.as_bytes()).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn asked(headers: &[(HeaderName, &'static str)]) -> HeaderMap {
        let headers = headers.iter().cloned();
        headers
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_format_is_the_one_that_is_wanted_more() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text; q=0.2, text/plain; q=0.3",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=high", Format::Prometheus),
            ("application/json, ,;;q", Format::Prometheus),
        ] {
            let headers = asked(&[(ACCEPT, accept)]);
            assert_eq!(super::format(&headers), format, "{accept}");
        }
        assert_eq!(super::format(&HeaderMap::new()), Format::Prometheus);
    }

    #[test]
    fn it_is_compressed_for_those_who_can_read_it() {
        for (accept, compressed) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("GZIP", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = asked(&[(ACCEPT_ENCODING, accept)]);
            assert_eq!(gzip(&headers), compressed, "{accept}");
        }
        let text = "a line\n".repeat(1000);
        let compressed = compress(&text).unwrap();
        let mut decoder = flate2::read::GzDecoder::new(&*compressed);
        assert_eq!(std::io::read_to_string(&mut decoder).unwrap(), text);
        assert!(compressed.len() < text.len() / 10);
    }
}
