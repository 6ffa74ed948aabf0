//! Tables as kubectl prints them: no lines, columns three spaces apart.

use comfy_table::{Cell, Table, presets};

/// A table with a heading and rows. Control characters in a cell are replaced: the texts come from
/// manifests, and a terminal would execute them.
pub(crate) fn render(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(heading.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| Cell::new(printable(&cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Without control characters, which a terminal would execute.
pub(crate) fn printable(cell: &str) -> String {
    cell.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// An age as kubectl writes it: two units at the most, fewer as it grows.
pub(crate) fn age(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        i64::MIN..0 => "<invalid>".to_owned(),
        0..120 => format!("{s}s"),
        120..600 => two(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => two(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => two(d, "d", h % 24, "h"),
        691_200..63_072_000 => format!("{d}d"),
        63_072_000..252_288_000 => two(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        for (seconds, wanted) in [
            (-1, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (14_640, "4h4m"),
            (90_000, "25h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (63_072_000, "2y"),
            (63_072_000 + 86_400, "2y1d"),
            (400_000_000, "12y"),
        ] {
            assert_eq!(age(seconds), wanted, "{seconds} s");
        }
    }

    #[test]
    fn columns_stand_three_spaces_apart_and_lines_end_without_spaces() {
        let text = render(
            &["NAME", "TYPE"],
            vec![vec!["a-long-name".into(), "x".into()]],
        );
        assert_eq!(text, "NAME          TYPE\na-long-name   x\n");
    }

    #[test]
    fn a_cell_cannot_command_a_terminal() {
        let text = render(&["NAME"], vec![vec!["\u{1b}[2J\nx".into()]]);
        assert_eq!(text, "NAME\n\u{fffd}[2J\u{fffd}x\n");
    }
}
