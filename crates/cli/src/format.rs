//! Sizes, times and foreign text as people read them.

use comfy_table::{CellAlignment, Table, presets};

/// A table without lines: columns two spaces apart.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Lines up columns of numbers.
pub(crate) fn right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// `512 B`, `1.0 KiB`, `256.0 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `730 us`, `12.3 ms`, `4.56 s`.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// `1 process`, `2 processes`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Text that a program chose, such as its command line: whatever a terminal would act on is escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for found in text.chars() {
        // Beyond control characters, those that change the direction of text or are not seen.
        let hidden = matches!(found, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if found.is_control() || hidden {
            escaped.extend(found.escape_default());
        } else {
            escaped.push(found);
        }
    }
    escaped
}

/// A command line as one would type it, escaped, and cut after `limit` characters.
pub(crate) fn command_line(arguments: &[String], limit: usize) -> String {
    let quoted: Vec<String> = arguments.iter().map(|argument| quote(argument)).collect();
    let line = quoted.join(" ");
    if line.chars().count() <= limit {
        line
    } else {
        line.chars()
            .take(limit.saturating_sub(1))
            .chain(['…'])
            .collect()
    }
}

fn quote(argument: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=,+@%".contains(&byte) || byte >= 0x80;
    let escaped = escape(argument);
    if !escaped.is_empty() && escaped.bytes().all(plain) {
        escaped
    } else {
        format!("'{}'", escaped.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(micros(999), "999 us");
        assert_eq!(micros(12_345), "12.3 ms");
        assert_eq!(micros(4_560_000), "4.56 s");
        assert_eq!(count(1, "process", "processes"), "1 process");
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        assert_eq!(
            escape("a\x1b[31mb\nc\u{202e}d"),
            "a\\u{1b}[31mb\\nc\\u{202e}d"
        );
        let arguments = [
            "sh".to_owned(),
            "-c".to_owned(),
            "echo 'x' \x07".to_owned(),
            String::new(),
        ];
        assert_eq!(
            command_line(&arguments, 80),
            r"sh -c 'echo '\''x'\'' \u{7}' ''"
        );
        assert_eq!(command_line(&arguments, 7), "sh -c …");
    }
}
