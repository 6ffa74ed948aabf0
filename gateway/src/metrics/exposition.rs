//! The Prometheus text format, version 0.0.4, and OpenMetrics 1.0, which is derived from it.

use std::fmt::{Display, Write};

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own.
    Prometheus,
    /// OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
    OpenMetrics,
}

impl Format {
    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Metric families, one after the other.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl MetricKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family: its samples stand together, under one HELP and one TYPE.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family. Its name must be new. The family is shown even where it has no series, so that readers see
    /// which series there can be.
    pub fn family(
        &mut self,
        name: &'static str,
        kind: MetricKind,
        help: &'static str,
    ) -> Family<'_> {
        let kind = kind.as_str();
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            text: &mut self.0,
            name,
        }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: &Labels, value: impl Display) {
        self.sample_of("", labels, value);
    }

    /// One sample with one more label, whose value needs no escaping.
    pub fn sample_with(&mut self, labels: &Labels, label: (&str, &str), value: impl Display) {
        self.write("", labels, Some(label), value);
    }

    /// One bucket of a histogram: how many were not above the bound.
    pub fn bucket(&mut self, labels: &Labels, bound: f64, count: u64) {
        let bound = if bound.is_infinite() {
            "+Inf".to_owned()
        } else {
            bound.to_string()
        };
        self.write("_bucket", labels, Some(("le", &bound)), count);
    }

    /// One sample of a histogram's parts: `_sum` or `_count`.
    pub fn sample_of(&mut self, part: &str, labels: &Labels, value: impl Display) {
        self.write(part, labels, None, value);
    }

    fn write(
        &mut self,
        part: &str,
        Labels(labels): &Labels,
        label: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(part);
        let comma = if labels.is_empty() { "" } else { "," };
        // Writing to a String can't fail.
        let _ = match label {
            Some((name, of)) => writeln!(self.text, "{{{labels}{comma}{name}=\"{of}\"}} {value}"),
            None if labels.is_empty() => writeln!(self.text, " {value}"),
            None => writeln!(self.text, "{{{labels}}} {value}"),
        };
    }
}

/// Labels of a sample, escaped and joined.
#[derive(Clone, Debug, Default)]
pub struct Labels(String);

impl Labels {
    /// These labels and one more.
    pub fn with(&self, name: &str, value: impl Display) -> Self {
        let mut labels = self.0.clone();
        if !labels.is_empty() {
            labels.push(',');
        }
        let _ = write!(labels, "{name}=\"");
        for c in value.to_string().chars() {
            match c {
                '\\' => labels.push_str("\\\\"),
                '"' => labels.push_str("\\\""),
                '\n' => labels.push_str("\\n"),
                c => labels.push(c),
            }
        }
        labels.push('"');
        Self(labels)
    }
}

/// Converts a text from Prometheus' format to OpenMetrics: the name of a counter's family has no `_total`, bounds of
/// buckets have a decimal point, there are no empty lines, and the text ends with `# EOF`.
pub fn openmetrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 64);
    let mut is_histogram = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name) = (words.next(), words.next().unwrap_or_default());
            let rest = words.next().unwrap_or_default();
            if word == Some("TYPE") {
                is_histogram = rest == "histogram";
            }
            // Here every counter has it, and nothing else.
            let name = name.strip_suffix("_total").unwrap_or(name);
            let _ = writeln!(out, "# {} {name} {rest}", word.unwrap_or_default());
            continue;
        }
        match line.split_once("le=\"").filter(|_| is_histogram) {
            Some((before, bound_and_rest)) => {
                let (bound, rest) = bound_and_rest.split_once('"').unwrap_or_default();
                let point = if bound.bytes().all(|byte| byte.is_ascii_digit()) {
                    ".0"
                } else {
                    ""
                };
                let _ = writeln!(out, "{before}le=\"{bound}{point}\"{rest}");
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out.push_str("# EOF\n");
    out
}
