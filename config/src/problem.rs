//! What is wrong with what a user wrote, and where.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::field::FieldProblem;

/// Where an object was declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentPlace {
    /// The file; empty for an API server.
    pub file: Arc<str>,
    /// The document in the file, counted from 1.
    pub document: usize,
    /// The way from the top of the document to the object, as `items[2]` in a List; else empty.
    pub prefix: String,
}

impl DocumentPlace {
    /// The problem for an error in a field of the object there; `object` names the object.
    pub fn problem(&self, object: &str, problem: FieldProblem) -> Problem {
        self.with(Severity::Error, object, problem)
    }

    /// The problem for a warning about a field of the object there.
    pub fn warning(&self, object: &str, problem: FieldProblem) -> Problem {
        self.with(Severity::Warning, object, problem)
    }

    fn with(&self, severity: Severity, object: &str, problem: FieldProblem) -> Problem {
        let field = match (self.prefix.is_empty(), problem.field.is_empty()) {
            (true, _) => problem.field,
            (false, true) => self.prefix.clone(),
            (false, false) if problem.field.starts_with('[') => {
                format!("{}{}", self.prefix, problem.field)
            }
            (false, false) => format!("{}.{}", self.prefix, problem.field),
        };
        Problem {
            file: Arc::clone(&self.file),
            document: self.document,
            object: object.to_owned(),
            field,
            message: problem.message,
            severity,
        }
    }
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that is asked for is not done.
    #[default]
    Error,
    /// It works, but perhaps not as it was meant.
    Warning,
}

impl fmt::Display for DocumentPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)?;
        if !self.prefix.is_empty() {
            write!(f, ", {}", self.prefix)?;
        }
        Ok(())
    }
}

/// One thing that is wrong, with the place where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file, as a path below the manifest directory or as it was given; empty where it came
    /// from an API server.
    pub file: Arc<str>,
    /// The document in the file, counted from 1; 0 for the file as a whole.
    pub document: usize,
    /// What object it is, as `Service web/shop`; empty where that can't be told.
    pub object: String,
    /// The field, as `spec.ports[0].nodePort`; empty for the document as a whole.
    pub field: String,
    /// What is wrong and what would be right, in a sentence without a full stop.
    pub message: String,
    /// How bad it is.
    #[serde(default)]
    pub severity: Severity,
}

impl Problem {
    /// A problem of a file as a whole, or of a directory or a store.
    pub fn of_file(file: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            document: 0,
            object: String::new(),
            field: String::new(),
            message: message.into(),
            severity: Severity::Error,
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.document > 0 {
            write!(f, ", document {}", self.document)?;
        }
        if !self.object.is_empty() {
            write!(f, ", {}", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        let severity = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        write!(f, ": {severity}{}", self.message)
    }
}
