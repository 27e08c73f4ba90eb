//! What is queued in a pseudo-terminal: input that its programs have not read, output that its master has not.
//!
//! The kernel lets nobody look at a terminal's queues. They are read empty and written full again at once, with the
//! tree frozen and the line made transparent meanwhile (no echo, no translation), so that every byte is again where and
//! what it was. In canonical mode lines stay lines, also one that is not complete yet; where only the end-of-file
//! character ended a line, that character stands in the bytes, as it was typed.
//!
//! Numbers and meanings are those of termios(3) and of Documentation/driver-api/tty.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cryopod_sys::Errno;
use cryopod_sys::tty::{self, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

type Result<T> = std::result::Result<T, Errno>;

/// The most that is taken out of one queue. The kernel's own limit is below (64 KiB on the way and 4 KiB at the reader).
pub const LIMIT_BYTES: usize = 128 << 10;
/// What fits between the settings and the reader.
const BUFFER_BYTES: usize = 4095;
/// What one write may hold so that it is always taken whole.
const STEP_BYTES: usize = 512;
/// How long the kernel may take to carry bytes from one end to the other. It takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a terminal puts nothing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The stop character was typed.
    Character,
    /// A program asked for it (tcflow(3)).
    Program,
}

/// Both queues of a pseudo-terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// For the slave to read.
    pub input: Vec<u8>,
    /// For the master to read.
    pub output: Vec<u8>,
    /// Whether output is stopped.
    pub stop: Option<Stop>,
}

/// A pseudo-terminal, with a descriptor of our own for the slave.
pub struct Line<'a> {
    master: BorrowedFd<'a>,
    slave: OwnedFd,
}

impl<'a> Line<'a> {
    /// The line of a master.
    pub fn of(master: BorrowedFd<'a>) -> Result<Self> {
        let locked = tty::is_locked(master)?;
        if locked {
            tty::set_locked(master, false)?;
        }
        let slave = tty::open_slave(master, libc::O_RDWR | libc::O_NONBLOCK);
        if locked {
            tty::set_locked(master, true)?;
        }
        Ok(Self {
            master,
            slave: slave?,
        })
    }

    /// What is queued; everything stays as it was. `None` where the master is in packet mode and has not read yet what
    /// happened: that cannot be put back, so nothing is touched.
    pub fn look(&self) -> Result<Option<Queues>> {
        let packets = tty::is_packet_mode(self.master)?;
        if packets {
            if is_ready(self.master, PollFlags::PRI)? {
                return Ok(None);
            }
            tty::set_packet_mode(self.master, false)?;
        }
        let mut queues = Queues::default();
        let taken = self.take(&mut queues);
        // Whatever went wrong, what was taken goes back.
        let put = self.put(&queues);
        if packets {
            tty::set_packet_mode(self.master, true)?;
        }
        taken.and(put).map(|()| Some(queues))
    }

    fn take(&self, queues: &mut Queues) -> Result<()> {
        self.take_output(&mut queues.output)?;
        queues.stop = self.start()?;
        self.take_input(&mut queues.input)
    }

    fn take_output(&self, bytes: &mut Vec<u8>) -> Result<()> {
        while bytes.len() < LIMIT_BYTES && is_ready(self.master, PollFlags::IN)? {
            match read_more(self.master, bytes) {
                Ok(0) => break,
                Ok(_) => {}
                // Opened for writing only, or nobody is left at the other end.
                Err(Errno::BADF | Errno::IO | Errno::AGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Lets output go on if it is stopped. With the queue empty nothing else keeps the slave from writing.
    fn start(&self) -> Result<Option<Stop>> {
        let slave = self.slave.as_fd();
        let can_write = || is_ready(slave, PollFlags::OUT);
        if can_write()? {
            return Ok(None);
        }
        tty::stop_output(slave, false)?;
        if can_write()? {
            return Ok(Some(Stop::Program));
        }
        // What a character stopped is no program's to start, until it has stopped it as well.
        tty::stop_output(slave, true)?;
        tty::stop_output(slave, false)?;
        Ok(can_write()?.then_some(Stop::Character))
    }

    fn take_input(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let settings = tty::settings(self.slave.as_fd())?;
        if !is_canonical(&settings) {
            return self.take_all(bytes);
        }
        // One read gives one line.
        while bytes.len() < LIMIT_BYTES && is_ready(self.slave.as_fd(), PollFlags::IN)? {
            let read = match read_more(self.slave.as_fd(), bytes) {
                Err(Errno::AGAIN) => break,
                read => read?,
            };
            let ends = [b'\n', settings.c_cc[libc::VEOL], settings.c_cc[libc::VEOL2]];
            let ended = read > 0
                && bytes
                    .last()
                    .is_some_and(|last| *last != 0 && ends.contains(last));
            let end_of_file = settings.c_cc[libc::VEOF];
            if !ended && end_of_file != 0 {
                bytes.push(end_of_file);
            }
        }
        // A line that is not complete can be read only when there are no lines.
        let mut open = settings;
        open.c_lflag &= !libc::ICANON;
        let _back = Change::make(self.slave.as_fd(), &settings, &open)?;
        self.take_all(bytes)
    }

    fn take_all(&self, bytes: &mut Vec<u8>) -> Result<()> {
        while bytes.len() < LIMIT_BYTES {
            match read_more(self.slave.as_fd(), bytes) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(_) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Fills queues that are empty. The line has its settings already and is not stopped.
    pub fn put(&self, queues: &Queues) -> Result<()> {
        // In this order: whether the slave can write tells when input has arrived.
        self.put_input(&queues.input)?;
        self.put_output(&queues.output)?;
        match queues.stop {
            None => Ok(()),
            Some(Stop::Program) => tty::stop_output(self.slave.as_fd(), true),
            Some(Stop::Character) => self.stop_by_character(),
        }
    }

    fn put_input(&self, input: &[u8]) -> Result<()> {
        if input.is_empty() {
            return Ok(());
        }
        let settings = tty::settings(self.slave.as_fd())?;
        let mut clear = settings;
        clear.c_iflag &= libc::IXON;
        clear.c_lflag &= libc::ICANON | libc::EXTPROC;
        clear.c_cc = [0; tty::CHARACTERS];
        if is_canonical(&settings) {
            for which in [libc::VEOF, libc::VEOL, libc::VEOL2] {
                clear.c_cc[which] = settings.c_cc[which];
            }
            return self.put_lines(input, &settings, clear);
        }
        let _back = Change::make(self.slave.as_fd(), &settings, &clear)?;
        write_all(self.master, input)?;
        let expected = input.len().min(BUFFER_BYTES);
        await_that(|| {
            let arrived = cryopod_sys::fd::readable_bytes(self.slave.as_fd())?;
            Ok(arrived as usize >= expected)
        })
    }

    /// The kernel carries bytes over in its own time, by the settings of that time, and does not tell how much of a line
    /// has arrived. Behind the last byte go two that leave no trace but one that can be waited for: they stop output and
    /// start it again.
    fn put_lines(&self, input: &[u8], settings: &Settings, mut clear: Settings) -> Result<()> {
        // A line's worth of bytes with every value there is has never been typed.
        let (stop, start) = unused(input, &clear.c_cc).ok_or(Errno::NOBUFS)?;
        clear.c_iflag |= libc::IXON;
        (clear.c_cc[libc::VSTOP], clear.c_cc[libc::VSTART]) = (stop, start);
        let _back = Change::make(self.slave.as_fd(), settings, &clear)?;
        write_all(self.master, input)?;
        write_all(self.master, &[stop])?;
        self.await_output(false)?;
        write_all(self.master, &[start])?;
        self.await_output(true)
    }

    fn put_output(&self, output: &[u8]) -> Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        let settings = tty::settings(self.slave.as_fd())?;
        let mut plain = settings;
        plain.c_oflag &= !libc::OPOST;
        let _back = Change::make(self.slave.as_fd(), &settings, &plain)?;
        write_all(self.slave.as_fd(), output)
    }

    fn stop_by_character(&self) -> Result<()> {
        let settings = tty::settings(self.slave.as_fd())?;
        let stop = settings.c_cc[libc::VSTOP];
        if settings.c_iflag & libc::IXON == 0 || stop == 0 {
            return tty::stop_output(self.slave.as_fd(), true);
        }
        write_all(self.master, &[stop])?;
        self.await_output(false)
    }

    fn await_output(&self, possible: bool) -> Result<()> {
        await_that(|| Ok(is_ready(self.slave.as_fd(), PollFlags::OUT)? == possible))
    }
}

fn await_that(mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            return Err(Errno::TIMEDOUT);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// Settings for a moment; dropping it brings back the others.
struct Change<'a> {
    slave: BorrowedFd<'a>,
    settings: Settings,
}

impl<'a> Change<'a> {
    fn make(slave: BorrowedFd<'a>, settings: &Settings, wanted: &Settings) -> Result<Self> {
        tty::set_settings(slave, wanted)?;
        Ok(Self {
            slave,
            settings: *settings,
        })
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if let Err(error) = tty::set_settings(self.slave, &self.settings) {
            tracing::warn!(%error, "the settings of a terminal are not given back");
        }
    }
}

/// Whether input comes line by line. With EXTPROC the other side does the editing.
fn is_canonical(settings: &Settings) -> bool {
    settings.c_lflag & (libc::ICANON | libc::EXTPROC) == libc::ICANON
}

/// Two bytes that neither occur in `input` nor mean anything on the line.
fn unused(input: &[u8], special: &[u8]) -> Option<(u8, u8)> {
    let mut used = [false; 256];
    for &byte in input.iter().chain(special).chain(b"\0\n") {
        used[usize::from(byte)] = true;
    }
    let mut free = (0..=u8::MAX).filter(|&byte| !used[usize::from(byte)]);
    Some((free.next()?, free.next()?))
}

fn is_ready(file: BorrowedFd<'_>, what: PollFlags) -> Result<bool> {
    let mut fds = [PollFd::new(&file, what)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&at_once))?;
    Ok(fds[0].revents().contains(what))
}

fn read_more(file: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> Result<usize> {
    let mut buffer = [0; 4096];
    let read = rustix::io::read(file, &mut buffer)?;
    bytes.extend_from_slice(&buffer[..read]);
    Ok(read)
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        // A master may be in blocking mode, which is its program's business.
        if !is_ready(file, PollFlags::OUT)? {
            if Instant::now() > deadline {
                return Err(Errno::NOBUFS);
            }
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        let step = &bytes[..bytes.len().min(STEP_BYTES)];
        match rustix::io::write(file, step) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (File, File) {
        let mut options = OpenOptions::new();
        let master = options.read(true).write(true).open("/dev/ptmx").unwrap();
        tty::set_locked(master.as_fd(), false).unwrap();
        let slave = tty::open_slave(master.as_fd(), libc::O_RDWR | libc::O_NONBLOCK).unwrap();
        (master, File::from(slave))
    }

    fn raw(slave: &File) {
        let mut settings = tty::settings(slave.as_fd()).unwrap();
        (settings.c_iflag, settings.c_oflag, settings.c_lflag) = (0, 0, 0);
        tty::set_settings(slave.as_fd(), &settings).unwrap();
    }

    fn quiet(slave: &File) {
        let mut settings = tty::settings(slave.as_fd()).unwrap();
        settings.c_lflag &= !libc::ECHO;
        tty::set_settings(slave.as_fd(), &settings).unwrap();
    }

    /// Looks twice: what is there must not change by being looked at.
    fn look(master: &File) -> Queues {
        let line = Line::of(master.as_fd()).unwrap();
        let first = line.look().unwrap().unwrap();
        assert_eq!(line.look().unwrap().unwrap(), first);
        first
    }

    fn line_of(slave: &mut File) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut bytes = [0; 4096];
        loop {
            match slave.read(&mut bytes) {
                Ok(read) => return bytes[..read].to_vec(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "nothing came");
        }
    }

    #[test]
    fn raw_bytes_survive_in_both_directions() {
        let (mut master, mut slave) = pair();
        raw(&slave);
        let everything: Vec<u8> = (0..=255).cycle().take(3000).collect();
        master.write_all(&everything).unwrap();
        slave.write_all(&everything).unwrap();
        let queues = look(&master);
        assert_eq!(
            (queues.input, queues.output),
            (everything.clone(), everything.clone())
        );
        let mut back = vec![0; everything.len()];
        master.read_exact(&mut back).unwrap();
        assert_eq!(back, everything);
        assert_eq!(line_of(&mut slave), everything);
    }

    #[test]
    fn lines_stay_lines_and_the_last_stays_open() {
        let (mut master, mut slave) = pair();
        quiet(&slave);
        master.write_all(b"one\ntwo\x04\x04three").unwrap();
        assert_eq!(look(&master).input, b"one\ntwo\x04\x04three");
        assert_eq!(line_of(&mut slave), b"one\n");
        assert_eq!(line_of(&mut slave), b"two");
        assert_eq!(line_of(&mut slave), b"");
        // Still editable.
        master.write_all(b"\x7f\x7fy\n").unwrap();
        assert_eq!(line_of(&mut slave), b"thry\n");
        assert!(look(&master).output.is_empty());
    }

    #[test]
    fn output_is_not_translated_twice() {
        let (mut master, mut slave) = pair();
        slave.write_all(b"a\nb\n").unwrap();
        assert_eq!(look(&master).output, b"a\r\nb\r\n");
        let mut bytes = [0; 16];
        assert_eq!(master.read(&mut bytes).unwrap(), 6);
    }

    #[test]
    fn stopped_output_stays_stopped_in_its_own_way() {
        let (mut master, mut slave) = pair();
        quiet(&slave);
        slave.write_all(b"before").unwrap();
        master.write_all(&[0x13]).unwrap();
        let other = master.try_clone().unwrap();
        let line = Line::of(other.as_fd()).unwrap();
        line.await_output(false).unwrap();
        assert_eq!(look(&master).stop, Some(Stop::Character));
        assert!(slave.write(b"x").is_err());
        master.write_all(&[0x11]).unwrap();
        line.await_output(true).unwrap();
        tty::stop_output(slave.as_fd(), true).unwrap();
        let queues = look(&master);
        assert_eq!(
            (queues.stop, queues.output),
            (Some(Stop::Program), b"before".to_vec())
        );
        tty::stop_output(slave.as_fd(), false).unwrap();
        assert!(slave.write(b"x").is_ok());
    }

    #[test]
    fn packet_mode_is_kept_and_what_happened_is_not_lost() {
        let (mut master, mut slave) = pair();
        tty::set_packet_mode(master.as_fd(), true).unwrap();
        slave.write_all(b"abc").unwrap();
        assert_eq!(look(&master).output, b"abc");
        let mut bytes = [9; 16];
        assert_eq!(master.read(&mut bytes).unwrap(), 4);
        assert_eq!(&bytes[..4], b"\0abc");
        tty::stop_output(slave.as_fd(), true).unwrap();
        assert_eq!(Line::of(master.as_fd()).unwrap().look().unwrap(), None);
    }

    #[test]
    fn two_bytes_are_found_where_there_are_two() {
        assert_eq!(unused(b"\x01\x02", &[3]), Some((4, 5)));
        let all: Vec<u8> = (0..=254).collect();
        assert_eq!(unused(&all, &[]), None);
    }
}
