//! Signals of this process: noting that they arrived, whichever and however many.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::{Errno, Result, check};

/// Bit N-1 for signal N.
static NOTED: AtomicU64 = AtomicU64::new(0);
/// Those of them that a process sent, and not only the kernel (a terminal, the end of a child).
static SENT: AtomicU64 = AtomicU64::new(0);
/// An eventfd by which the handler wakes who waits, who may be another thread than the one that the kernel interrupted.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: i32, info: *const libc::siginfo_t, _context: *const libc::c_void) {
    /// `si_code` of what the kernel sends; those of children are positive as well.
    const SI_USER: i32 = 0;
    // SAFETY: the kernel passes a valid siginfo with SA_SIGINFO.
    if unsafe { (*info).si_code } <= SI_USER {
        SENT.fetch_or(bit(signal), Ordering::SeqCst);
    }
    NOTED.fetch_or(bit(signal), Ordering::SeqCst);
    let one = 1u64;
    // SAFETY: write(2) is async-signal-safe and reads 8 live bytes; whoever was interrupted finds his errno again.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WAKE.load(Ordering::SeqCst), (&raw const one).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

/// The bit of a signal in masks: bit N-1 for signal N, as in sigset_t.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Which.
    pub signal: i32,
    /// Whether a process sent it. Otherwise the kernel did, as it does for the keys of a terminal; then the whole
    /// foreground process group has got it.
    pub sent: bool,
}

/// From now on the given signals are only noted (sigaction(2)). Calls that they interrupt are made again, but for those
/// that never are, such as poll(2) and [`await_readable`].
pub fn note_instead_of_dying(signals: &[i32]) -> Result<()> {
    make_wake()?;
    for &signal in signals {
        // SAFETY: a zeroed sigaction is valid; the handler changes atomics and writes, which is async-signal-safe.
        let rc = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        check(i64::from(rc))?;
    }
    Ok(())
}

/// Makes [`WAKE`], which stays for as long as the process does.
fn make_wake() -> Result<()> {
    if WAKE.load(Ordering::SeqCst) >= 0 {
        return Ok(());
    }
    // SAFETY: plain integers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    check(i64::from(fd))?;
    if WAKE
        .compare_exchange(-1, fd, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        // SAFETY: another thread was faster; nobody knows this number.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// One of the noted signals, each once for however often it came.
pub fn take_noted() -> Option<Noted> {
    let noted = NOTED.load(Ordering::SeqCst);
    if noted == 0 {
        return None;
    }
    let signal = noted.trailing_zeros() as i32 + 1;
    // In this order: what comes in between is noted again, and at worst taken for sent by somebody.
    NOTED.fetch_and(!bit(signal), Ordering::SeqCst);
    let sent = SENT.fetch_and(!bit(signal), Ordering::SeqCst) & bit(signal) != 0;
    Some(Noted { signal, sent })
}

/// The noted signals, without taking them: bit N-1 for signal N.
pub fn noted() -> u64 {
    NOTED.load(Ordering::SeqCst)
}

/// Waits until `file` can be read or one of `signals` is noted, which may have happened already. poll(2).
///
/// Any thread may wait, whichever thread the kernel gives the signals to. One at a time: who waits takes the wake-up.
pub fn await_readable(file: BorrowedFd<'_>, signals: &[i32]) -> Result<()> {
    let wanted = signals.iter().fold(0, |mask, &signal| mask | bit(signal));
    let wanted_fd = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let wake = WAKE.load(Ordering::SeqCst);
    while noted() & wanted == 0 {
        // poll ignores the negative number that stands for no descriptor.
        let mut polls = [wanted_fd(file.as_raw_fd()), wanted_fd(wake)];
        // SAFETY: two live pollfds, no timeout.
        match check(i64::from(unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) })) {
            Ok(_) if polls[0].revents != 0 => break,
            Ok(_) => {
                let mut count = 0u64;
                // SAFETY: reads the 8 bytes of an eventfd into a live integer; it does not block.
                let _nothing_there_is_fine =
                    unsafe { libc::read(wake, (&raw mut count).cast(), 8) };
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Does something with signals blocked for this thread; it is told the mask of before.
pub fn with_blocked<T>(signals: u64, work: impl FnOnce(u64) -> Result<T>) -> Result<T> {
    let mask = |how: i32, new: &u64| {
        let mut before = 0u64;
        // SAFETY: both masks are live and 8 bytes long as said.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                how,
                std::ptr::from_ref(new),
                &raw mut before,
                8usize,
            )
        };
        check(rc).map(|_| before)
    };
    let before = mask(libc::SIG_BLOCK, &signals)?;
    let result = work(before);
    mask(libc::SIG_SETMASK, &before)?;
    result
}

/// Ends this process by `signal` with its default action, as a shell expects of a parent that stands for its child.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: restores the default action and sends the signal to this process; if it does not end it, exit does.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
    std::process::exit(128 + signal)
}

/// From now on the given signals are ignored.
pub fn ignore(signals: &[i32]) -> Result<()> {
    for &signal in signals {
        // SAFETY: no handler is installed.
        let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
        if before == libc::SIG_ERR {
            return check(-1).map(drop);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn no_signal_is_lost_and_each_is_told_once() {
        let signals = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];
        note_instead_of_dying(&signals).unwrap();
        let own = std::process::id() as i32;
        for signal in [libc::SIGUSR2, libc::SIGWINCH, libc::SIGUSR1] {
            crate::process::kill(own, signal).unwrap();
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut taken = Vec::new();
        while taken.len() < signals.len() {
            await_readable(reader.as_fd(), &signals).unwrap();
            while let Some(noted) = take_noted() {
                assert!(noted.sent);
                taken.push(noted.signal);
            }
        }
        taken.sort_unstable();
        assert_eq!(taken, [libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH]);

        // Whichever thread takes it, and whenever: who waits is woken.
        for _ in 0..2_000 {
            crate::process::kill(own, libc::SIGUSR1).unwrap();
            await_readable(reader.as_fd(), &signals).unwrap();
            assert_eq!(take_noted().map(|noted| noted.signal), Some(libc::SIGUSR1));
            assert_eq!(take_noted(), None);
        }
    }

    #[test]
    fn a_blocked_signal_waits() {
        with_blocked(bit(libc::SIGURG), |before| {
            assert_eq!(before & bit(libc::SIGURG), 0);
            let blocked = with_blocked(0, Ok)?;
            assert_ne!(blocked & bit(libc::SIGURG), 0);
            Ok(())
        })
        .unwrap();
    }
}
