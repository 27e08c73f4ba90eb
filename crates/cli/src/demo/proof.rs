//! Comparing what the programs told before the checkpoint and after the restore.

use std::path::Path;

use cryopod::foreground;

use super::file_of;
use super::status::Status;

/// After the checkpoint: none of the programs runs.
pub(super) fn all_ended(before: &[Status]) -> Result<(), String> {
    match before
        .iter()
        .find(|status| !foreground::has_ended(status.pid))
    {
        None => Ok(()),
        Some(status) => Err(format!("pid {} still runs after it was ended", status.pid)),
    }
}

/// Whether every part of every program has gone on since. Memory counts as checked when a whole check was begun and
/// ended afterwards.
pub(super) fn all_went_on(before: &[Status], after: &[Status]) -> bool {
    before.iter().zip(after).all(|(before, after)| {
        after.counter > before.counter + 1000
            && after.sent > before.sent + 1000
            && after.received > before.received + 1000
            && after.lines > before.lines + 10
            && after.read_bytes > before.read_bytes
            && after.ticks > before.ticks + 10
            && after.events > before.events + 10
            && after.memory_checks > before.memory_checks + 1
    })
}

/// When all is over: the programs are those that were started, nothing was lost and nothing came twice.
pub(super) fn nothing_got_lost(
    dir: &Path,
    before: &[Status],
    after: &[Status],
) -> Result<(), String> {
    for (before, after) in before.iter().zip(after) {
        same("pid", before, before.pid, after.pid)?;
        same("random number", before, before.nonce, after.nonce)?;
        same(
            "checksum of its memory",
            before,
            before.checksum,
            after.checksum,
        )?;
        same(
            "number of timer expirations told",
            after,
            after.ticks,
            after.events,
        )?;
        if let Some(problem) = after.problems.first() {
            return Err(problem.clone());
        }
        check_lines(dir, after)?;
    }
    let (first, rest) = after.split_first().ok_or("there are no programs")?;
    for status in rest {
        same(
            "number of messages passed on",
            status,
            first.sent,
            status.received,
        )?;
        same(
            "number of messages passed on",
            status,
            status.received,
            status.sent,
        )?;
    }
    same(
        "number of messages that came back",
        first,
        first.sent,
        first.received,
    )
}

fn same<T: PartialEq + std::fmt::Display>(
    what: &str,
    of: &Status,
    expected: T,
    found: T,
) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!(
            "{} (pid {}): the {what} is {found}, should be {expected}",
            of.role, of.pid
        ))
    }
}

/// The file of a program has the lines 1, 2, 3 and so on, as many as it says, each once.
fn check_lines(dir: &Path, status: &Status) -> Result<(), String> {
    let path = file_of(dir, "lines", &status.role);
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut count = 0_u64;
    for (expected, line) in (1_u64..).zip(text.lines()) {
        if line != expected.to_string() {
            return Err(format!("{}: line {expected} is {line:?}", path.display()));
        }
        count = expected;
    }
    same("number of lines in its file", status, status.lines, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(role: &str) -> Status {
        Status {
            role: role.to_owned(),
            sent: 5,
            received: 5,
            lines: 3,
            ..Status::default()
        }
    }

    #[test]
    fn what_is_lost_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let before = ["a", "b", "c"].map(sample);
        for status in &before {
            std::fs::write(file_of(dir.path(), "lines", &status.role), "1\n2\n3\n").unwrap();
        }
        let check = |change: &dyn Fn(&mut [Status; 3])| {
            let mut after = before.clone();
            change(&mut after);
            nothing_got_lost(dir.path(), &before, &after)
        };
        assert_eq!(check(&|_| {}), Ok(()));
        assert!(
            check(&|after| after[0].received = 4)
                .unwrap_err()
                .contains("came back")
        );
        assert!(
            check(&|after| after[1].sent = 6)
                .unwrap_err()
                .contains("passed on")
        );
        assert!(
            check(&|after| after[2].received = 4)
                .unwrap_err()
                .contains("passed on")
        );
        assert!(
            check(&|after| after[2].nonce = 4)
                .unwrap_err()
                .contains("random number")
        );
        assert!(
            check(&|after| after[1].checksum = 4)
                .unwrap_err()
                .contains("checksum")
        );
        assert!(
            check(&|after| after[1].events = 4)
                .unwrap_err()
                .contains("timer")
        );
        assert!(
            check(&|after| after[1].lines = 4)
                .unwrap_err()
                .contains("lines")
        );
        std::fs::write(file_of(dir.path(), "lines", "b"), "1\n2\n2\n3\n").unwrap();
        assert!(check(&|_| {}).unwrap_err().contains("line 3"));
    }

    #[test]
    fn what_stands_still_is_noticed() {
        let before = [sample("a")];
        assert!(!all_went_on(&before, &before));
    }
}
