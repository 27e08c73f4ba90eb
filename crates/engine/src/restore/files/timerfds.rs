//! Timer descriptors: made early, set going at the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::TimerfdEntry;
use cryopod_sys::fd;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};

use super::set_status;
use crate::error::{Context, Error, Result};

const NANOSECONDS: u64 = 1_000_000_000;
/// No timer runs for longer: 292 years, where the kernel's own clocks end.
const LONGEST_SECONDS: u64 = (i64::MAX as u64) / NANOSECONDS;

/// Makes a timer that does not run yet.
pub fn open(entry: &TimerfdEntry) -> Result<OwnedFd> {
    let (clock, _) = clock(entry)?;
    let times = [(entry.vsec, entry.vnsec), (entry.isec, entry.insec)];
    if times
        .iter()
        .any(|&(seconds, nanoseconds)| seconds > LONGEST_SECONDS || nanoseconds >= NANOSECONDS)
    {
        let what = format!("file {}: a timer set to no time", entry.id);
        return Err(Error::inconsistent("files", what));
    }
    let file = rustix::time::timerfd_create(clock, TimerfdFlags::CLOEXEC).host("make a timerfd")?;
    set_status(file.as_fd(), entry.flags)?;
    Ok(file)
}

fn clock(entry: &TimerfdEntry) -> Result<(TimerfdClockId, ClockId)> {
    match entry.clockid as i32 {
        libc::CLOCK_REALTIME => Ok((TimerfdClockId::Realtime, ClockId::Realtime)),
        libc::CLOCK_MONOTONIC => Ok((TimerfdClockId::Monotonic, ClockId::Monotonic)),
        libc::CLOCK_BOOTTIME => Ok((TimerfdClockId::Boottime, ClockId::Boottime)),
        other => Err(Error::NotRestorable {
            what: format!("file {}: a timer of clock {other}", entry.id),
        }),
    }
}

/// Sets a timer going with the time it had left, and the expirations that nobody has read.
pub fn arm(entry: &TimerfdEntry, file: BorrowedFd<'_>) -> Result<()> {
    let (_, clock) = clock(entry)?;
    let flags = TimerfdTimerFlags::from_bits_retain(entry.settime_flags);
    let interval = time(entry.isec, entry.insec);
    let mut value = time(entry.vsec, entry.vnsec);
    let is_zero = |time: Timespec| (time.tv_sec, time.tv_nsec) == (0, 0);
    if is_zero(value) && entry.ticks != 0 {
        // It had expired, and the kernel starts the next interval when somebody reads. Here it starts now.
        value = interval;
    }
    if flags.contains(TimerfdTimerFlags::ABSTIME) && !is_zero(value) {
        value = add(rustix::time::clock_gettime(clock), value);
    }
    let setting = Itimerspec {
        it_interval: interval,
        it_value: value,
    };
    rustix::time::timerfd_settime(file, flags, &setting).host("set a timerfd")?;
    if entry.ticks != 0 {
        fd::set_timer_ticks(file, entry.ticks).host("set the expirations of a timerfd")?;
    }
    Ok(())
}

fn time(seconds: u64, nanoseconds: u64) -> Timespec {
    Timespec {
        tv_sec: seconds as i64,
        tv_nsec: nanoseconds as _,
    }
}

fn add(one: Timespec, other: Timespec) -> Timespec {
    let nanoseconds = one.tv_nsec as u64 + other.tv_nsec as u64;
    let seconds = one
        .tv_sec
        .saturating_add(other.tv_sec)
        .saturating_add((nanoseconds / NANOSECONDS) as i64);
    Timespec {
        tv_sec: seconds,
        tv_nsec: (nanoseconds % NANOSECONDS) as _,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::files::seen::Seen;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_timer_comes_back_with_its_expirations() {
        let entry = TimerfdEntry {
            clockid: 1,
            ticks: 7,
            settime_flags: 1,
            vsec: 1000,
            isec: 5,
            insec: 6,
            flags: libc::O_RDWR as u32 | libc::O_NONBLOCK as u32,
            ..TimerfdEntry::default()
        };
        let file = open(&entry).unwrap();
        arm(&entry, file.as_fd()).unwrap();
        let info = Seen::descriptor(std::process::id() as i32, file.as_raw_fd())
            .unwrap()
            .info;
        assert_eq!(info.number("ticks"), Some(7));
        assert_eq!(info.value("settime flags"), Some("01"));
        assert_eq!(info.value("it_interval"), Some("(5, 6)"));
        assert!(info.value("it_value").unwrap().starts_with("(999, "));
        assert_ne!(info.flags & libc::O_NONBLOCK as u32, 0);
    }

    #[test]
    fn an_impossible_timer_is_refused() {
        let entry = TimerfdEntry {
            clockid: 1,
            vnsec: NANOSECONDS,
            ..TimerfdEntry::default()
        };
        assert!(matches!(open(&entry), Err(Error::Inconsistent { .. })));
        let entry = TimerfdEntry {
            clockid: 9,
            ..TimerfdEntry::default()
        };
        assert!(matches!(open(&entry), Err(Error::NotRestorable { .. })));
    }

    #[test]
    fn times_are_added_with_their_carry() {
        let sum = add(time(1, 900_000_000), time(2, 200_000_000));
        assert_eq!((sum.tv_sec, sum.tv_nsec), (4, 100_000_000));
    }
}
