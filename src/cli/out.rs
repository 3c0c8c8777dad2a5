//! Text for people and for scripts. A reader who closes the pipe ends the output, not with a panic.

use std::io::Write;

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    text_out(&format!("{text}\n"));
}

/// Writes to standard output as is.
pub(crate) fn text_out(text: &str) {
    bytes_out(text.as_bytes());
}

/// Writes to standard output what is no text.
pub(crate) fn bytes_out(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe does not want the rest.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Writes to standard error as is.
pub(crate) fn error(text: &str) {
    // There is nowhere left to say that this failed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes a line of ours to standard error, beside what a build prints there.
pub(crate) fn note(text: &str) {
    error(&format!("larder: {text}\n"));
}

/// Lays rows out in columns; numbers to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let numeric = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).all(|cell| cell.starts_with(|first: char| first.is_ascii_digit()))
    };
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().enumerate().map(|(column, cell)| match numeric(column) {
            true => format!("{cell:>width$}", width = width(column)),
            false => format!("{cell:<width$}", width = width(column)),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A time for people.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.000_05 => "0 s".to_owned(),
        s if s < 0.01 => format!("{:.1} ms", s * 1000.0),
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// `1 hit`, `2 hits`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A JSON value for people: `key  value`, what is nested indented below.
pub(crate) fn fields(value: &serde_json::Value) -> String {
    let mut out = String::new();
    write_fields(&mut out, value, 0);
    out
}

fn write_fields(out: &mut String, value: &serde_json::Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        serde_json::Value::Object(map) => {
            let width = map.keys().map(|key| key.chars().count()).max().unwrap_or(0);
            for (key, value) in map {
                let name = plain(&key.replace('_', " "));
                match value {
                    serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
                        out.push_str(&format!("{indent}{name}\n"));
                        write_fields(out, value, depth + 1);
                    }
                    other => out.push_str(&format!("{indent}{name:<width$}  {}\n", scalar(other))),
                }
            }
        }
        serde_json::Value::Array(items) => {
            if items.is_empty() {
                out.push_str(&format!("{indent}none\n"));
            }
            for item in items {
                match item {
                    serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
                        write_fields(out, item, depth);
                        out.push('\n');
                    }
                    other => out.push_str(&format!("{indent}{}\n", scalar(other))),
                }
            }
        }
        other => out.push_str(&format!("{indent}{}\n", scalar(other))),
    }
}

fn scalar(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => plain(text),
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::Bool(truth) => (if *truth { "yes" } else { "no" }).to_owned(),
        other => other.to_string(),
    }
}

/// What a server sent, without what would move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        for (time, text) in
            [(0.0, "0 s"), (0.0004, "0.4 ms"), (0.25, "250 ms"), (2.5, "2.5 s"), (41.2, "41 s"), (600.0, "10 min")]
        {
            assert_eq!(seconds(time), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["go".into(), "7".into()], vec!["cargo".into(), "1024".into()]];
        assert_eq!(
            table(&["ecosystem", "requests"], &rows),
            "ecosystem  requests\ngo                7\ncargo          1024\n"
        );
    }

    #[test]
    fn json_reads_well_and_moves_no_cursor() {
        let value = serde_json::json!({"key": "a\u{1b}[2J", "fresh_for": {"left": 3}, "tiers": [], "kept": true});
        assert_eq!(fields(&value), "fresh for\n  left  3\nkept       yes\nkey        a [2J\ntiers\n  none\n");
    }
}
