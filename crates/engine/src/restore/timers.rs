//! Interval timers and POSIX timers, started again with what was left of them.

use cryopod_image::criu::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use cryopod_sys::Errno;

use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// prctl(2) since Linux 6.15: timer_create(2) takes the id it shall use from where it stores it.
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// No program has more timers than this by far; a hostile image must not keep cryopod busy for ever.
const LARGEST_ID: u32 = 1 << 20;

/// Makes and starts all timers of a process.
pub fn restore(puppet: &Puppet, mem: &Mem, entry: &TaskTimersEntry) -> Result<()> {
    for (which, timer) in [
        (libc::ITIMER_REAL, &entry.real),
        (libc::ITIMER_VIRTUAL, &entry.virt),
        (libc::ITIMER_PROF, &entry.prof),
    ] {
        interval(puppet, mem, which, timer)?;
    }
    if entry.posix.is_empty() {
        return Ok(());
    }
    let by_id = puppet
        .call(
            libc::SYS_prctl,
            [PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0],
        )?
        .is_ok();
    let mut timers: Vec<&PosixTimerEntry> = entry.posix.iter().collect();
    timers.sort_by_key(|timer| timer.it_id);
    for timer in timers {
        create(puppet, mem, timer, by_id)?;
        let value = [timer.isec, timer.insec, timer.vsec, timer.vnsec]
            .map(u64::to_ne_bytes)
            .concat();
        let at = puppet.put(mem, &value)?;
        puppet.must(
            "timer_settime",
            libc::SYS_timer_settime,
            [u64::from(timer.it_id), 0, at, 0, 0, 0],
        )?;
    }
    if by_id {
        puppet.must(
            "prctl (timer ids)",
            libc::SYS_prctl,
            [PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0, 0],
        )?;
    }
    Ok(())
}

fn interval(puppet: &Puppet, mem: &Mem, which: i32, timer: &ItimerEntry) -> Result<()> {
    if timer.vsec == 0 && timer.vusec == 0 && timer.isec == 0 && timer.iusec == 0 {
        return Ok(());
    }
    // A timer that has just fired is started again only when its signal is taken, and looks spent until then.
    let spent = timer.vsec == 0 && timer.vusec == 0;
    let (sec, usec) = if spent {
        (timer.isec, timer.iusec)
    } else {
        (timer.vsec, timer.vusec)
    };
    let value = [timer.isec, timer.iusec, sec, usec]
        .map(u64::to_ne_bytes)
        .concat();
    let at = puppet.put(mem, &value)?;
    puppet
        .must(
            "setitimer",
            libc::SYS_setitimer,
            [which as u64, at, 0, 0, 0, 0],
        )
        .map(drop)
}

/// timer_create(2) with a given id. Older kernels number timers upwards, so all before it are made and deleted.
fn create(puppet: &Puppet, mem: &Mem, timer: &PosixTimerEntry, by_id: bool) -> Result<()> {
    if timer.it_id > LARGEST_ID {
        return Err(Error::inconsistent(
            format!("core-{}", puppet.pid),
            format!("timer id {}", timer.it_id),
        ));
    }
    loop {
        let mut event = timer.sival_ptr.to_ne_bytes().to_vec();
        event.extend(timer.si_signo.to_ne_bytes());
        event.extend(timer.it_sigev_notify.to_ne_bytes());
        event.extend(timer.notify_thread_id.unwrap_or(0).to_ne_bytes());
        event.resize(64, 0);
        event.extend(timer.it_id.to_ne_bytes());
        let at = puppet.put(mem, &event)?;
        let clock = i64::from(timer.clock_id as i32) as u64;
        puppet.must(
            "timer_create",
            libc::SYS_timer_create,
            [clock, at, at + 64, 0, 0, 0],
        )?;
        let made = mem.read_u32(at + 64)?;
        if made == timer.it_id {
            return Ok(());
        }
        if by_id || made > timer.it_id {
            return Err(Error::Remote {
                call: "timer_create (with its id)",
                pid: puppet.pid,
                source: Errno::BUSY,
            });
        }
        puppet.must(
            "timer_delete",
            libc::SYS_timer_delete,
            [u64::from(made), 0, 0, 0, 0, 0],
        )?;
    }
}
