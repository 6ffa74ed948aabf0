//! Copies the fields of a head that pass: byte for byte, neighbours in one piece.

use super::fields::{FieldEntry, FieldTable};

/// Appends the lines of the fields for which `passes` says so.
pub(super) fn copy_fields(
    head: &[u8],
    table: &FieldTable,
    out: &mut Vec<u8>,
    mut passes: impl FnMut(&FieldEntry) -> bool,
) {
    if table.has_lone_lf {
        for entry in table.entries.iter().filter(|it| passes(it)) {
            for part in [entry.name(head), b": ", entry.value(head), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        return;
    }
    let mut run = (0, 0);
    let mut flush = |(from, to): (usize, usize)| {
        out.extend_from_slice(head.get(from..to).unwrap_or_default());
    };
    for entry in &table.entries {
        let (from, to) = entry.line();
        if !passes(entry) {
            continue;
        }
        if run.1 == from {
            run.1 = to;
        } else {
            flush(run);
            run = (from, to);
        }
    }
    flush(run);
}

/// Appends one line.
pub(super) fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
