//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metric families, one after the other.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family: its samples stand together, under one HELP and one TYPE, written with the first.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Exposition {
    /// Begins a family. It must not have been there before.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family {
            text: &mut self.0,
            name,
            kind,
            help,
            begun: false,
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

    /// One sample of a histogram's parts: `_bucket`, `_sum` or `_count`.
    pub fn sample_of(&mut self, part: &str, labels: &Labels, value: impl Display) {
        if !self.begun {
            self.begun = true;
            let Self {
                name, kind, help, ..
            } = self;
            let _ = writeln!(
                self.text,
                "# HELP {name} {help}\n# TYPE {name} {}",
                kind.as_str()
            );
        }
        // Writing to a String can't fail.
        let _ = match labels.0.as_str() {
            "" => writeln!(self.text, "{}{part} {value}", self.name),
            labels => writeln!(self.text, "{}{part}{{{labels}}} {value}", self.name),
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
