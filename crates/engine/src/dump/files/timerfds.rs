//! Timer descriptors (timerfd_create(2)).

use std::os::fd::AsFd;

use cryopod_image::criu::{FdTypes, FileEntry, TimerfdEntry};

use super::Description;
use crate::error::Result;
use crate::proc::fdinfo::FdInfo;

/// The entry of a timer descriptor.
pub fn dump(one: &Description<'_>) -> Result<FileEntry> {
    let mut tfd = one.line(parse(&one.seen.info))?;
    if (tfd.vsec, tfd.vnsec) == (0, 0) && (tfd.isec, tfd.insec) != (0, 0) {
        // It expired and nobody read it, so that the kernel has not started the next interval yet. To ask for the time
        // left makes it do so, which the program cannot tell from having asked itself a moment earlier.
        one.check(
            "ask for the time left (timerfd_gettime)",
            rustix::time::timerfd_gettime(one.file.as_fd()),
        )?;
        let fd = one.seen.fd.unwrap_or(-1);
        tfd = one.line(parse(&FdInfo::read(one.seen.pid, fd)?))?;
    }
    tfd.id = one.id;
    tfd.flags = one.seen.flags();
    tfd.fown = one.owner.clone();
    Ok(FileEntry {
        r#type: FdTypes::TimerFd.into(),
        id: one.id,
        tfd: Some(Box::new(tfd)),
        ..FileEntry::default()
    })
}

/// The number of a clock that the image format does not know: those that wake a sleeping machine.
fn unknown_clock(clock: u32) -> Option<u32> {
    const KNOWN: [i32; 3] = [
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME,
    ];
    (!KNOWN.contains(&(clock as i32))).then_some(clock)
}

/// Why a timer cannot be checkpointed, in words, if it cannot.
pub fn problem(info: &FdInfo) -> Option<String> {
    let clock = unknown_clock(u32::try_from(info.number("clockid")?).ok()?)?;
    Some(format!("timer that wakes the machine (clock {clock})"))
}

/// Reads the lines of proc_pid_fdinfo(5).
fn parse(info: &FdInfo) -> Option<TimerfdEntry> {
    let (vsec, vnsec) = pair(info.value("it_value")?)?;
    let (isec, insec) = pair(info.value("it_interval")?)?;
    Some(TimerfdEntry {
        clockid: u32::try_from(info.number("clockid")?).ok()?,
        ticks: info.value("ticks")?.parse().ok()?,
        settime_flags: u32::from_str_radix(info.value("settime flags")?, 8).ok()?,
        vsec,
        vnsec,
        isec,
        insec,
        ..TimerfdEntry::default()
    })
}

/// Parses `(seconds, nanoseconds)`.
fn pair(text: &str) -> Option<(u64, u64)> {
    let (seconds, nanoseconds) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((
        seconds.trim().parse().ok()?,
        nanoseconds.trim().parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &str) -> FdInfo {
        FdInfo {
            lines: lines.lines().map(str::to_owned).collect(),
            ..FdInfo::default()
        }
    }

    #[test]
    fn a_timer_is_read() {
        let text =
            "clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (0, 49406829)\nit_interval: (1, 0)";
        let entry = parse(&info(text)).unwrap();
        assert_eq!((entry.clockid, entry.ticks, entry.settime_flags), (1, 3, 1));
        assert_eq!(
            (entry.vsec, entry.vnsec, entry.isec, entry.insec),
            (0, 49_406_829, 1, 0)
        );
        assert_eq!(problem(&info(text)), None);
    }

    #[test]
    fn what_is_missing_or_odd_is_refused() {
        assert_eq!(parse(&info("clockid: 1")), None);
        assert_eq!(pair("(1)"), None);
        assert_eq!(pair("1, 2"), None);
        assert!(problem(&info("clockid: 9")).is_some());
    }
}
