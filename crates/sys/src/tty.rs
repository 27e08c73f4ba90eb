//! Terminals: what ioctl_tty(2) knows of them.
//!
//! Requests on the master of a pseudo-terminal concern its slave, where both could be meant: settings, window size,
//! session and foreground group are the slave's. Exclusive mode is each end's own.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::raw::c_ulong;

use crate::{Errno, Result, check};

/// `struct termios2` of asm-generic/termbits.h: the kernel's settings of a line, speeds included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and described in termios(3)")]
pub struct Settings {
    pub c_iflag: u32,
    pub c_oflag: u32,
    pub c_cflag: u32,
    pub c_lflag: u32,
    /// The line discipline.
    pub c_line: u8,
    pub c_cc: [u8; CHARACTERS],
    pub c_ispeed: u32,
    pub c_ospeed: u32,
}

/// How many special characters the kernel has (NCCS).
pub const CHARACTERS: usize = 19;

/// `struct termios` of asm-generic/termbits.h, which has no speeds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Termios {
    c_iflag: u32,
    c_oflag: u32,
    c_cflag: u32,
    c_lflag: u32,
    c_line: u8,
    c_cc: [u8; CHARACTERS],
}

/// `struct winsize`, TIOCGWINSZ.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
    /// Width in pixels; nobody but the two ends looks at it.
    pub x_pixels: u16,
    /// Height in pixels.
    pub y_pixels: u16,
}

/// What a request reads or writes: plain integers in the layout that the kernel documents for it.
trait Plain: Copy + Default {}
impl Plain for i32 {}
impl Plain for u32 {}
impl Plain for Settings {}
impl Plain for Termios {}
impl Plain for WindowSize {}

fn get<T: Plain>(file: BorrowedFd<'_>, request: c_ulong) -> Result<T> {
    let mut value = T::default();
    // SAFETY: every request that is passed here writes one `T`, which is live and valid for any bytes.
    check(i64::from(unsafe {
        libc::ioctl(file.as_raw_fd(), request, &raw mut value)
    }))?;
    Ok(value)
}

fn set<T: Plain>(file: BorrowedFd<'_>, request: c_ulong, value: T) -> Result<()> {
    // SAFETY: every request that is passed here reads one `T`, which is live.
    check(i64::from(unsafe {
        libc::ioctl(file.as_raw_fd(), request, &raw const value)
    }))
    .map(drop)
}

fn tell(file: BorrowedFd<'_>, request: c_ulong, value: i32) -> Result<()> {
    // SAFETY: every request that is passed here takes a plain integer.
    check(i64::from(unsafe {
        libc::ioctl(file.as_raw_fd(), request, value)
    }))
    .map(drop)
}

/// TCGETS2.
pub fn settings(file: BorrowedFd<'_>) -> Result<Settings> {
    get(file, 0x802c_542a)
}

/// TCSETS2: at once, without touching what is queued.
pub fn set_settings(file: BorrowedFd<'_>, settings: &Settings) -> Result<()> {
    set(file, 0x402c_542b, *settings)
}

/// TIOCGLCKTRMIOS: which settings nobody may change.
pub fn locked_settings(file: BorrowedFd<'_>) -> Result<Settings> {
    let locked: Termios = get(file, 0x5456)?;
    Ok(Settings {
        c_iflag: locked.c_iflag,
        c_oflag: locked.c_oflag,
        c_cflag: locked.c_cflag,
        c_lflag: locked.c_lflag,
        c_line: locked.c_line,
        c_cc: locked.c_cc,
        c_ispeed: 0,
        c_ospeed: 0,
    })
}

/// TIOCSLCKTRMIOS. Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
pub fn set_locked_settings(file: BorrowedFd<'_>, locked: &Settings) -> Result<()> {
    let locked = Termios {
        c_iflag: locked.c_iflag,
        c_oflag: locked.c_oflag,
        c_cflag: locked.c_cflag,
        c_lflag: locked.c_lflag,
        c_line: locked.c_line,
        c_cc: locked.c_cc,
    };
    set(file, 0x5457, locked)
}

/// TIOCGWINSZ.
pub fn window_size(file: BorrowedFd<'_>) -> Result<WindowSize> {
    get(file, libc::TIOCGWINSZ)
}

/// TIOCSWINSZ: the foreground group gets SIGWINCH if the size changes.
pub fn set_window_size(file: BorrowedFd<'_>, size: WindowSize) -> Result<()> {
    set(file, libc::TIOCSWINSZ, size)
}

/// TIOCGSID: the session that the terminal controls. ENOTTY when there is none, and on anything but a master when the
/// terminal is not the caller's own. EIO when it is hung up.
pub fn session(file: BorrowedFd<'_>) -> Result<i32> {
    get(file, libc::TIOCGSID)
}

/// TIOCGPGRP: the foreground process group, 0 for none; under the same conditions as [`session`].
pub fn foreground(file: BorrowedFd<'_>) -> Result<i32> {
    get(file, libc::TIOCGPGRP)
}

/// TIOCSPGRP: only from inside the session. From the background it comes with SIGTTOU, which is blocked meanwhile.
pub fn set_foreground(file: BorrowedFd<'_>, group: i32) -> Result<()> {
    crate::signal::with_blocked(crate::signal::bit(libc::SIGTTOU), |_| {
        set(file, TIOCSPGRP, group)
    })
}

/// TIOCSPGRP, for remote calls; the argument is the address of a pid.
pub const TIOCSPGRP: c_ulong = libc::TIOCSPGRP;
/// TIOCSCTTY, for remote calls; the argument is 1 to take the terminal from another session.
pub const TIOCSCTTY: c_ulong = libc::TIOCSCTTY;
/// TIOCNOTTY, for remote calls.
pub const TIOCNOTTY: c_ulong = libc::TIOCNOTTY;

/// TIOCGEXCL: whether nobody may open it any more.
pub fn is_exclusive(file: BorrowedFd<'_>) -> Result<bool> {
    Ok(get::<i32>(file, 0x8004_5440)? != 0)
}

/// TIOCEXCL.
pub fn set_exclusive(file: BorrowedFd<'_>) -> Result<()> {
    tell(file, libc::TIOCEXCL, 0)
}

/// TIOCGDEV: the device number of the terminal behind a descriptor, also behind one of /dev/tty or of a master (then it
/// is the slave's), as /proc/PID/stat has it.
pub fn device(file: BorrowedFd<'_>) -> Result<u32> {
    get(file, 0x8004_5432)
}

/// TIOCGETD: the line discipline; 0 (N_TTY) for all but modems and their like.
pub fn discipline(file: BorrowedFd<'_>) -> Result<i32> {
    get(file, 0x5424)
}

/// TIOCGPTN: the number of the pseudo-terminal of a master, /dev/pts/N.
pub fn index(master: BorrowedFd<'_>) -> Result<u32> {
    get(master, libc::TIOCGPTN)
}

/// TIOCGPTLCK: whether the slave cannot be opened.
pub fn is_locked(master: BorrowedFd<'_>) -> Result<bool> {
    Ok(get::<i32>(master, 0x8004_5439)? != 0)
}

/// TIOCSPTLCK.
pub fn set_locked(master: BorrowedFd<'_>, locked: bool) -> Result<()> {
    set(master, libc::TIOCSPTLCK, i32::from(locked))
}

/// TIOCGPKT: whether reads begin with a byte that tells what happened on the other side (TIOCPKT).
pub fn is_packet_mode(master: BorrowedFd<'_>) -> Result<bool> {
    Ok(get::<i32>(master, 0x8004_5438)? != 0)
}

/// TIOCPKT. What was not read yet of what happened is forgotten.
pub fn set_packet_mode(master: BorrowedFd<'_>, on: bool) -> Result<()> {
    set(master, libc::TIOCPKT, i32::from(on))
}

/// TIOCGPTPEER: opens the slave of a master with open flags, whatever became of its name. Never as controlling terminal.
pub fn open_slave(master: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd> {
    let flags = flags | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: plain integers only.
    let slave = check(i64::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    }))?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(slave as i32) })
}

/// TCXONC with TCOOFF or TCOON: stops output, or lets it go on.
pub fn stop_output(slave: BorrowedFd<'_>, stop: bool) -> Result<()> {
    let action = if stop { libc::TCOOFF } else { libc::TCOON };
    tell(slave, libc::TCXONC, action)
}

/// What a process does that has a terminal as its controlling one for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand<'a> {
    /// It opens a file, /dev/tty, with flags, and gives the terminal back.
    Open(&'a std::ffi::CStr, i32),
    /// It hangs the terminal up (vhangup(2)): every descriptor of it is good for nothing any more. Needs
    /// CAP_SYS_TTY_CONFIG.
    HangUp,
}

/// Sends a process on an errand: it founds a session, makes `terminal`, which must be nobody's controlling terminal, its
/// own, does the errand and ends. It shares this process's descriptors, so that what it opened is there afterwards.
pub fn send(terminal: BorrowedFd<'_>, errand: Errand<'_>) -> Result<Option<OwnedFd>> {
    const FAILED: i32 = 1 << 16;
    let mut answer = [0i32; 2];
    // SAFETY: the call writes two descriptors.
    check(i64::from(unsafe {
        libc::pipe2(answer.as_mut_ptr(), libc::O_CLOEXEC)
    }))?;
    // SAFETY: the kernel just made these descriptors for us; nobody else owns them.
    let [reader, writer] = answer.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    let args = crate::clone::CloneArgs {
        flags: libc::CLONE_FILES as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..crate::clone::CloneArgs::default()
    };
    // SAFETY: no CLONE_VM, so the child runs on its own copy of this stack. It makes only raw system calls, touches no
    // lock, allocates nothing and never returns, so the state of other threads at this moment does not matter to it.
    let pid = unsafe {
        let size = size_of::<crate::clone::CloneArgs>();
        let pid = libc::syscall(libc::SYS_clone3, &raw const args, size);
        if pid == 0 {
            let result = run(terminal.as_raw_fd(), errand);
            let word = result.unwrap_or_else(|errno| FAILED | errno.raw_os_error());
            libc::write(
                writer.as_raw_fd(),
                (&raw const word).cast(),
                size_of::<i32>(),
            );
            libc::syscall(libc::SYS_exit_group, 0);
        }
        check(pid)? as i32
    };
    // Not earlier: the table is shared, and this end is the child's as well.
    let ended = crate::wait::wait(pid, false);
    drop(writer);
    let mut word = 0i32;
    // SAFETY: the buffer is live and as long as said.
    let read = check(unsafe {
        libc::read(reader.as_raw_fd(), (&raw mut word).cast(), size_of::<i32>()) as i64
    })?;
    ended?;
    if read != size_of::<i32>() as i64 {
        return Err(Errno::IO);
    }
    if word & FAILED != 0 {
        return Err(Errno::from_raw_os_error(word & !FAILED));
    }
    Ok(match errand {
        // SAFETY: the child opened it in the table that it shares with us and told nobody else.
        Errand::Open(..) => Some(unsafe { OwnedFd::from_raw_fd(word) }),
        Errand::HangUp => None,
    })
}

/// The errand itself, in the process that was made for it.
///
/// # Safety
///
/// Only for a process that does nothing else: it leaves its session and blocks its signals.
unsafe fn run(terminal: i32, errand: Errand<'_>) -> Result<i32> {
    let everything = u64::MAX;
    // SAFETY: raw system calls with live arguments; the mask is 8 bytes long as said.
    unsafe {
        check(libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const everything,
            0usize,
            8usize,
        ))?;
        check(libc::syscall(libc::SYS_setsid))?;
        check(libc::syscall(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0))?;
        let Errand::Open(path, flags) = errand else {
            return Ok(check(libc::syscall(libc::SYS_vhangup))? as i32);
        };
        let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
        let file = check(libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            0,
        ));
        check(libc::syscall(libc::SYS_ioctl, terminal, libc::TIOCNOTTY, 0))?;
        Ok(file? as i32)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (File, File) {
        let master = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .unwrap();
        assert!(is_locked(master.as_fd()).unwrap());
        set_locked(master.as_fd(), false).unwrap();
        let slave = File::from(open_slave(master.as_fd(), libc::O_RDWR).unwrap());
        (master, slave)
    }

    #[test]
    fn settings_and_size_are_the_slave_s_from_both_ends() {
        let (master, slave) = pair();
        let mut wanted = settings(slave.as_fd()).unwrap();
        wanted.c_lflag &= !libc::ECHO;
        wanted.c_cc[libc::VINTR] = 7;
        set_settings(slave.as_fd(), &wanted).unwrap();
        assert_eq!(settings(master.as_fd()).unwrap(), wanted);
        let size = WindowSize {
            rows: 33,
            columns: 77,
            ..WindowSize::default()
        };
        set_window_size(master.as_fd(), size).unwrap();
        assert_eq!(window_size(slave.as_fd()).unwrap(), size);
        assert_eq!(
            device(slave.as_fd()).unwrap(),
            device(master.as_fd()).unwrap()
        );
        assert_eq!(discipline(slave.as_fd()).unwrap(), 0);
    }

    #[test]
    fn modes_are_read_as_they_are_set() {
        let (master, slave) = pair();
        assert!(!is_packet_mode(master.as_fd()).unwrap());
        set_packet_mode(master.as_fd(), true).unwrap();
        assert!(is_packet_mode(master.as_fd()).unwrap());
        set_exclusive(slave.as_fd()).unwrap();
        assert!(is_exclusive(slave.as_fd()).unwrap());
        assert!(!is_exclusive(master.as_fd()).unwrap());
        assert_eq!(session(master.as_fd()), Err(Errno::NOTTY));
        assert_eq!(foreground(master.as_fd()), Ok(0));
    }

    #[test]
    fn dev_tty_is_opened_for_a_terminal_that_is_nobody_s() {
        let (mut master, slave) = pair();
        let errand = Errand::Open(c"/dev/tty", libc::O_RDWR);
        let mut tty = File::from(send(slave.as_fd(), errand).unwrap().unwrap());
        assert_eq!(device(tty.as_fd()), device(slave.as_fd()));
        assert_eq!(session(master.as_fd()), Err(Errno::NOTTY));
        tty.write_all(b"x").unwrap();
        let mut byte = [0];
        master.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn what_is_hung_up_stays_so_and_can_be_opened_anew() {
        let (master, mut slave) = pair();
        assert!(send(slave.as_fd(), Errand::HangUp).unwrap().is_none());
        assert_eq!(session(slave.as_fd()), Err(Errno::IO));
        assert_eq!(slave.read(&mut [0]).unwrap(), 0);
        let again = open_slave(master.as_fd(), libc::O_RDWR).unwrap();
        assert!(settings(again.as_fd()).is_ok());
    }
}
