//! Printing. Whoever reads may stop reading (`cryopod ls | head -1`): that is no failure.

use std::io::{self, Write};

use serde::Serialize;

/// Prints lines on standard output.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints lines on standard error.
pub(crate) fn error_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints one JSON document on standard output.
pub(crate) fn document(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => error_line(&format!("error: cannot write JSON: {error}")),
    }
}

/// What a command has to say, once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Whether it is for programs.
    pub(crate) json: bool,
}

impl Output {
    /// Prints either the document, or what is for people.
    pub(crate) fn print(self, document_value: &impl Serialize, people: impl FnOnce() -> String) {
        if self.json {
            document(document_value);
        } else {
            let text = people();
            if !text.is_empty() {
                line(&text);
            }
        }
    }

    /// Tells people something beside the output proper.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            error_line(text);
        }
    }
}
