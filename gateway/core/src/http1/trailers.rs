//! Fields behind a chunked body: read whole, and passed on as far as they may stand there.

use super::copied::copy_fields;
use super::defect::HeadDefect;
use super::field_kind::may_trail;
use super::fields::{self, FieldTable};
use super::head_scan::{HeadLimits, HeadProgress, HeadScan};
use super::sender::Sender;

/// How large trailers may be. They are held until they are whole.
const LIMITS: HeadLimits = HeadLimits {
    bytes: 8 * 1024,
    fields: 64,
};

/// See [`BodyScan::trailers`](super::BodyScan::trailers).
pub(super) fn read(
    scan: &mut HeadScan,
    bytes: &[u8],
    passes: bool,
    table: &mut FieldTable,
    out: &mut Vec<u8>,
) -> Result<Option<usize>, HeadDefect> {
    let HeadProgress::Complete(length) = scan.trailers(bytes, &LIMITS)? else {
        return Ok(None);
    };
    let section = bytes.get(..length).unwrap_or_default();
    let summary = fields::read(section, 0, LIMITS.fields, Sender::Client, table)?;
    if passes {
        let named = summary.named > 0;
        copy_fields(section, table, out, |entry| {
            let name = entry.name(section);
            may_trail(name, entry.kind) && !(named && fields::is_named(section, table, name))
        });
    }
    out.extend_from_slice(b"\r\n");
    Ok(Some(length))
}
