//! What is set of a terminal: line settings (termios(3)), window size, modes.

use std::os::fd::BorrowedFd;

use cryopod_image::criu::{TermiosEntry, TtyInfoEntry};
use cryopod_sys::tty::{self, Settings, WindowSize};

use crate::error::{Context, Result};

/// The modes of a master.
pub fn modes(master: BorrowedFd<'_>, info: &TtyInfoEntry) -> Result<()> {
    if info.packet_mode {
        tty::set_packet_mode(master, true).host("set packet mode (TIOCPKT)")?;
    }
    if info.exclusive {
        tty::set_exclusive(master).host("make a terminal exclusive (TIOCEXCL)")?;
    }
    if info.locked {
        tty::set_locked(master, true).host("lock a pseudo-terminal (TIOCSPTLCK)")?;
    }
    Ok(())
}

/// Line settings and window size. They are left alone where they are right: a device may be others' as well.
pub fn settings(file: BorrowedFd<'_>, info: &TtyInfoEntry) -> Result<()> {
    if let Some(termios) = &info.termios {
        let now = tty::settings(file).host("read the settings of a terminal")?;
        let mut wanted = kernels(termios);
        // criu stores no speeds: they follow from the flags.
        if (wanted.c_ispeed, wanted.c_ospeed) == (0, 0) {
            (wanted.c_ispeed, wanted.c_ospeed) = (now.c_ispeed, now.c_ospeed);
        }
        if wanted != now {
            tty::set_settings(file, &wanted).host("set up a terminal (TCSETS2)")?;
        }
    }
    let Some(size) = &info.winsize else {
        return Ok(());
    };
    let wanted = WindowSize {
        rows: size.ws_row as u16,
        columns: size.ws_col as u16,
        x_pixels: size.ws_xpixel as u16,
        y_pixels: size.ws_ypixel as u16,
    };
    if tty::window_size(file) != Ok(wanted) {
        tty::set_window_size(file, wanted).host("set the size of a window (TIOCSWINSZ)")?;
    }
    Ok(())
}

/// Settings that programs may not change (TIOCSLCKTRMIOS).
pub fn lock_settings(file: BorrowedFd<'_>, info: &TtyInfoEntry) -> Result<()> {
    let Some(locked) = &info.termios_locked else {
        return Ok(());
    };
    let wanted = Settings {
        c_ispeed: 0,
        c_ospeed: 0,
        ..kernels(locked)
    };
    if tty::locked_settings(file) == Ok(wanted) {
        return Ok(());
    }
    tty::set_locked_settings(file, &wanted).host("lock the settings of a terminal (TIOCSLCKTRMIOS)")
}

fn kernels(entry: &TermiosEntry) -> Settings {
    let mut settings = Settings {
        c_iflag: entry.c_iflag,
        c_oflag: entry.c_oflag,
        c_cflag: entry.c_cflag,
        c_lflag: entry.c_lflag,
        c_line: entry.c_line as u8,
        c_ispeed: entry.c_ispeed,
        c_ospeed: entry.c_ospeed,
        ..Settings::default()
    };
    for (to, from) in settings.c_cc.iter_mut().zip(&entry.c_cc) {
        *to = *from as u8;
    }
    settings
}
