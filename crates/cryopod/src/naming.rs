//! What a checkpoint is called when nobody says: the command's name, and the time.

use jiff::Timestamp;

use cryopod_store::{Label, MAX_NAME_BYTES, Name, Store};

use crate::error::{Error, Result};

/// The label for a process: its command name, made to fit the rule for names.
pub(crate) fn label_of(pid: i32) -> Result<Label> {
    let path = format!("/proc/{pid}/comm");
    // Not UTF-8 necessarily: the name of an executable, cut after 15 bytes.
    let comm = std::fs::read(&path).map_err(Error::path("read", path))?;
    Ok(Label::parse(&fit(&String::from_utf8_lossy(&comm), pid))?)
}

/// Makes `comm` a label: other characters than those allowed become dashes, leading and trailing ones go.
fn fit(comm: &str, pid: i32) -> String {
    let allowed = |found: char| found.is_ascii_alphanumeric() || matches!(found, '_' | '.' | '-');
    let replaced: String = comm
        .trim_end()
        .chars()
        .map(|found| if allowed(found) { found } else { '-' })
        .collect();
    let trimmed = replaced
        .trim_start_matches(|found: char| !found.is_ascii_alphanumeric())
        .trim_end_matches('-');
    match trimmed.len() {
        0 => format!("pid-{pid}"),
        1 => format!("{trimmed}-{pid}"),
        _ => trimmed.chars().take(MAX_NAME_BYTES).collect(),
    }
}

/// A name that is not taken under `label` at this moment: the time in UTC to the millisecond, `20261121T051530.123Z`.
pub(crate) fn free_name(store: &Store, label: &Label, mut time: Timestamp) -> Result<Name> {
    loop {
        let name = Name::parse(&time.strftime("%Y%m%dT%H%M%S.%3fZ").to_string())?;
        if !store.contains(label, &name)? {
            return Ok(name);
        }
        time = time
            .saturating_add(jiff::SignedDuration::from_millis(1))
            .unwrap_or(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_are_the_commands_name_where_possible() {
        assert_eq!(fit("python3\n", 7), "python3");
        assert_eq!(fit("(sd-pam)\n", 7), "sd-pam");
        assert_eq!(fit("kworker/0:1\n", 7), "kworker-0-1");
        assert_eq!(fit("x\n", 7), "x-7");
        assert_eq!(fit("...\n", 7), "pid-7");
        assert_eq!(fit("", 7), "pid-7");
    }

    #[test]
    fn names_are_the_time_and_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let label = Label::parse("web").unwrap();
        let time: Timestamp = "2026-11-21T05:15:30.123456Z".parse().unwrap();
        assert_eq!(
            free_name(&store, &label, time).unwrap().as_str(),
            "20261121T051530.123Z"
        );
        std::fs::create_dir_all(dir.path().join("checkpoints/web/20261121T051530.123Z")).unwrap();
        assert_eq!(
            free_name(&store, &label, time).unwrap().as_str(),
            "20261121T051530.124Z"
        );
    }

    proptest! {
        #[test]
        fn every_command_name_makes_a_label(comm in any::<String>(), pid in 1..i32::MAX) {
            prop_assert!(Label::parse(&fit(&comm, pid)).is_ok());
        }
    }
}
