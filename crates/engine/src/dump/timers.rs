//! Interval timers and POSIX timers: what is left of them.

use cryopod_image::criu::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};

use crate::error::Result;
use crate::proc;
use crate::remote::visit::Visit;

/// Reads all timers of the visited process.
pub fn dump(visit: &mut Visit<'_>, pid: i32) -> Result<TaskTimersEntry> {
    Ok(TaskTimersEntry {
        real: interval(visit, libc::ITIMER_REAL)?,
        virt: interval(visit, libc::ITIMER_VIRTUAL)?,
        prof: interval(visit, libc::ITIMER_PROF)?,
        posix: posix(visit, pid)?,
    })
}

/// Four words: interval and value, each in seconds and a fraction.
fn four(visit: &Visit<'_>) -> Result<[u64; 4]> {
    let bytes: [u8; 32] = visit.read_scratch()?;
    Ok(std::array::from_fn(|word| {
        u64::from_ne_bytes(std::array::from_fn(|index| bytes[8 * word + index]))
    }))
}

fn interval(visit: &mut Visit<'_>, which: i32) -> Result<ItimerEntry> {
    let scratch = visit.scratch();
    visit.must(
        "getitimer",
        libc::SYS_getitimer,
        [which as u64, scratch, 0, 0, 0, 0],
    )?;
    let [isec, iusec, vsec, vusec] = four(visit)?;
    Ok(ItimerEntry {
        isec,
        iusec,
        vsec,
        vusec,
    })
}

fn posix(visit: &mut Visit<'_>, pid: i32) -> Result<Vec<PosixTimerEntry>> {
    let text = proc::read_text(pid, "timers")?;
    let mut timers = parse(&text).ok_or_else(|| proc::misread(pid, "timers", &text))?;
    let scratch = visit.scratch();
    for timer in &mut timers {
        let id = u64::from(timer.it_id);
        timer.overrun = visit.must(
            "timer_getoverrun",
            libc::SYS_timer_getoverrun,
            [id, 0, 0, 0, 0, 0],
        )? as u32;
        visit.must(
            "timer_gettime",
            libc::SYS_timer_gettime,
            [id, scratch, 0, 0, 0, 0],
        )?;
        [timer.isec, timer.insec, timer.vsec, timer.vnsec] = four(visit)?;
    }
    Ok(timers)
}

/// /proc/PID/timers, see proc_pid_timers(5): `ID: n`, `signal: no/value`, `notify: kind/pid.n` or `kind/tid.n`,
/// `ClockID: n`.
fn parse(text: &str) -> Option<Vec<PosixTimerEntry>> {
    const SIGEV_SIGNAL: u32 = 0;
    const SIGEV_NONE: u32 = 1;
    const SIGEV_THREAD: u32 = 2;
    const SIGEV_THREAD_ID: u32 = 4;
    let mut timers: Vec<PosixTimerEntry> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key == "ID" {
            timers.push(PosixTimerEntry {
                it_id: value.parse().ok()?,
                ..PosixTimerEntry::default()
            });
            continue;
        }
        let timer = timers.last_mut()?;
        match key {
            "signal" => {
                let (number, pointer) = value.split_once('/')?;
                timer.si_signo = number.parse().ok()?;
                timer.sival_ptr =
                    u64::from_str_radix(pointer.trim_start_matches("0x"), 16).unwrap_or(0);
            }
            "notify" => {
                let (kind, whom) = value.split_once('/')?;
                let (scope, id) = whom.split_once('.')?;
                timer.it_sigev_notify = match kind {
                    "signal" => SIGEV_SIGNAL,
                    "none" => SIGEV_NONE,
                    "thread" => SIGEV_THREAD,
                    _ => return None,
                };
                if scope == "tid" {
                    timer.it_sigev_notify |= SIGEV_THREAD_ID;
                    timer.notify_thread_id = Some(id.parse().ok()?);
                }
            }
            "ClockID" => timer.clock_id = value.parse::<i32>().ok()? as u32,
            _ => {}
        }
    }
    Some(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read_as_the_manual_prints_them() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
                    ID: 0\nsignal: 0/0000000000000000\nnotify: signal/tid.77\nClockID: -6\n";
        let timers = parse(text).unwrap();
        assert_eq!(
            (timers[0].it_id, timers[0].si_signo, timers[0].sival_ptr),
            (1, 60, 0x7fff_86e4_52a8)
        );
        assert_eq!(
            (timers[1].it_sigev_notify, timers[1].notify_thread_id),
            (4, Some(77))
        );
        assert_eq!(timers[1].clock_id as i32, -6);
    }
}
