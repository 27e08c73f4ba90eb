//! The programs of the demonstration: a parent and two children, each with threads that count, write, read, wait for
//! timers and check memory, and with messages going round between them through pipes.
//!
//! The parent starts numbered messages faster than it takes them back, so that the pipes are full at every moment. Each
//! program checks all that it sees; what is wrong goes into its [`Status`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cryopod::foreground;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::file_of;
use super::memory::{Contents, Ledger, word};
use super::status::{ROLES, STOP_FILE, Status};

/// The hidden first argument of such a program.
pub(crate) const WORKER: &str = "__demo-worker";

/// How large the file is that is read over and over.
const READ_FILE_BYTES: u64 = 1 << 20;

/// What the threads of a program share.
struct Shared {
    role: String,
    dir: PathBuf,
    stop: AtomicBool,
    ledger: Mutex<Ledger>,
    sent: AtomicU64,
    received: AtomicU64,
    lines: AtomicU64,
    read_bytes: AtomicU64,
    ticks: AtomicU64,
    events: AtomicU64,
    memory_bytes: u64,
    memory_checks: AtomicU64,
    checksum: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, what: impl std::fmt::Display) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < 10 {
            problems.push(format!(
                "{} (pid {}): {what}",
                self.role,
                std::process::id()
            ));
        }
    }

    fn status(&self, nonce: u64, done: bool) -> Status {
        let get = |value: &AtomicU64| value.load(Ordering::SeqCst);
        Status {
            role: self.role.clone(),
            pid: std::process::id() as i32,
            nonce,
            counter: self.ledger().last(),
            sent: get(&self.sent),
            received: get(&self.received),
            lines: get(&self.lines),
            read_bytes: get(&self.read_bytes),
            ticks: get(&self.ticks),
            events: get(&self.events),
            memory_bytes: self.memory_bytes,
            memory_checks: get(&self.memory_checks),
            checksum: get(&self.checksum),
            done,
            problems: self
                .problems
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// The program: role, directory, bytes of memory for all three.
pub(crate) fn worker(arguments: &[OsString]) -> ExitCode {
    let [role, dir, memory_bytes] = arguments else {
        return ExitCode::FAILURE;
    };
    let role = role.to_string_lossy();
    let Some(index) = ROLES.iter().position(|known| *known == role) else {
        return ExitCode::FAILURE;
    };
    let total_bytes = memory_bytes.to_string_lossy().parse().unwrap_or(0);
    match work(index, Path::new(dir), total_bytes) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            crate::output::error_line(&format!("{role}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs to the end. Whether all was well.
fn work(index: usize, dir: &Path, total_bytes: u64) -> io::Result<bool> {
    if index == 0 {
        foreground::start_session().map_err(io::Error::other)?;
    }
    // The parent has half of the memory, each child a quarter.
    let memory_bytes = if index == 0 {
        total_bytes / 2
    } else {
        total_bytes / 4
    };
    let shared = Arc::new(Shared {
        role: ROLES[index].to_owned(),
        dir: dir.to_owned(),
        stop: AtomicBool::new(false),
        ledger: Mutex::new(Ledger::new()),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        lines: AtomicU64::new(0),
        read_bytes: AtomicU64::new(0),
        ticks: AtomicU64::new(0),
        events: AtomicU64::new(0),
        memory_bytes,
        memory_checks: AtomicU64::new(0),
        checksum: AtomicU64::new(0),
        problems: Mutex::new(Vec::new()),
    });
    let nonce = draw()?;
    let (messengers, children) = if index == 0 {
        lead(&shared, total_bytes)?
    } else {
        (vec![start(&shared, relay)], Vec::new())
    };
    let event_counter = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let told = Arc::clone(&event_counter);
    let threads = vec![
        start(&shared, count),
        start(&shared, write_lines),
        start(&shared, read_file),
        start(&shared, move |shared| wait_for_timer(shared, &told)),
        start(&shared, move |shared| {
            wait_for_events(shared, &event_counter)
        }),
        start(&shared, move |shared| check_memory(shared, nonce)),
    ];
    look_on(&shared, nonce, &messengers)?;
    shared.stop.store(true, Ordering::SeqCst);
    for thread in messengers.into_iter().chain(threads) {
        if thread.join().is_err() {
            shared.problem("a thread panicked");
        }
    }
    for mut child in children {
        if !child.wait()?.success() {
            shared.problem("a child failed");
        }
    }
    if let Err(problem) = shared.ledger().check() {
        shared.problem(problem);
    }
    let status = shared.status(nonce, true);
    status.write(dir)?;
    Ok(status.problems.is_empty())
}

/// Tells how things are until there is no more to do: for the parent until it is told to stop, for a child until no more
/// messages come. Whoever started the demonstration may be killed at any moment: then everything ends.
fn look_on(shared: &Shared, nonce: u64, messengers: &[JoinHandle<()>]) -> io::Result<()> {
    let started_by = rustix::process::getppid();
    let is_parent = shared.role == ROLES[0];
    loop {
        shared.status(nonce, false).write(&shared.dir)?;
        let over = if is_parent {
            shared.dir.join(STOP_FILE).exists()
        } else {
            messengers.iter().all(JoinHandle::is_finished)
        };
        if over {
            return Ok(());
        }
        if rustix::process::getppid() != started_by {
            return Err(io::Error::other("whoever started this program has ended"));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A random number.
fn draw() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Starts a thread. What it fails with is a problem of the program's.
fn start(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        if let Err(error) = body(&shared) {
            shared.problem(error);
        }
    })
}

/// The parent's part of the messages: starts the children, each with the end of one pipe and the beginning of the next,
/// and two threads, one that sends and one that receives.
fn lead(shared: &Arc<Shared>, total_bytes: u64) -> io::Result<(Vec<JoinHandle<()>>, Vec<Child>)> {
    let (first_in, to_first) = io::pipe()?;
    let (second_in, first_out) = io::pipe()?;
    let (from_second, second_out) = io::pipe()?;
    let child = |role: &str, input: io::PipeReader, output: io::PipeWriter| {
        let mut child = Command::new("/proc/self/exe");
        child
            .arg0("cryopod")
            .arg(WORKER)
            .arg(role)
            .arg(&shared.dir)
            .arg(total_bytes.to_string());
        child
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .spawn()
    };
    let children = vec![
        child(ROLES[1], first_in, first_out)?,
        child(ROLES[2], second_in, second_out)?,
    ];
    let sender = start(shared, move |shared| send(shared, to_first));
    let receiver = start(shared, move |shared| receive(shared, from_second));
    Ok((vec![sender, receiver], children))
}

/// A message: its number, and a second number that follows from it.
fn message(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_ne_bytes());
    bytes[8..].copy_from_slice(&word(MESSAGE_SEED, number).to_ne_bytes());
    bytes
}

const MESSAGE_SEED: u64 = 0x6372_796f_706f_6421;

/// Sends as fast as the pipe takes it, until it is time to stop. Then the pipe ends.
fn send(shared: &Shared, mut pipe: io::PipeWriter) -> io::Result<()> {
    while !shared.is_stopping() {
        let number = shared.sent.load(Ordering::SeqCst) + 1;
        pipe.write_all(&message(number))?;
        shared.sent.store(number, Ordering::SeqCst);
    }
    Ok(())
}

/// Receives a few at a time, so that the pipes stay full, until it is time to stop: then as fast as they come.
fn receive(shared: &Shared, mut pipe: io::PipeReader) -> io::Result<()> {
    while let Some(number) = next_message(shared, &mut pipe)? {
        if number % 16 == 0 && !shared.is_stopping() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// A child's part of the messages: passes on what comes, until nothing comes any more.
fn relay(shared: &Shared) -> io::Result<()> {
    let mut input = io::PipeReader::from(duplicate(io::stdin())?);
    let mut output = io::PipeWriter::from(duplicate(io::stdout())?);
    while let Some(number) = next_message(shared, &mut input)? {
        output.write_all(&message(number))?;
        shared.sent.store(number, Ordering::SeqCst);
    }
    Ok(())
}

fn duplicate(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// The next message, which must be the one after the last.
fn next_message(shared: &Shared, pipe: &mut io::PipeReader) -> io::Result<Option<u64>> {
    let expected = shared.received.load(Ordering::SeqCst) + 1;
    let mut bytes = [0; 16];
    match pipe.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    if bytes != message(expected) {
        return Err(io::Error::other(format!(
            "a message other than number {expected}: {bytes:x?}"
        )));
    }
    shared.received.store(expected, Ordering::SeqCst);
    Ok(Some(expected))
}

/// Counts.
fn count(shared: &Shared) -> io::Result<()> {
    while !shared.is_stopping() {
        let reached = shared.ledger().count();
        if reached.is_multiple_of(1000) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Writes numbered lines to a file that stays open.
fn write_lines(shared: &Shared) -> io::Result<()> {
    let mut file = File::create(file_of(&shared.dir, "lines", &shared.role))?;
    while !shared.is_stopping() {
        let number = shared.lines.load(Ordering::SeqCst) + 1;
        file.write_all(format!("{number}\n").as_bytes())?;
        shared.lines.store(number, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Reads a file of known contents in small pieces, from where it was to the end and then again.
fn read_file(shared: &Shared) -> io::Result<()> {
    let path = file_of(&shared.dir, "contents", &shared.role);
    let seed = shared.memory_bytes;
    let words = (0..READ_FILE_BYTES / 8).flat_map(|index| word(seed, index).to_ne_bytes());
    std::fs::write(&path, words.collect::<Vec<u8>>())?;
    let mut file = File::open(path)?;
    let mut index = 0;
    while !shared.is_stopping() {
        let mut piece = [0; 1 << 10];
        file.read_exact(&mut piece)?;
        for bytes in piece.chunks_exact(8) {
            if bytes != word(seed, index).to_ne_bytes() {
                return Err(io::Error::other(format!(
                    "word {index} read from a file is wrong: {bytes:x?}"
                )));
            }
            index += 1;
        }
        shared
            .read_bytes
            .fetch_add(piece.len() as u64, Ordering::SeqCst);
        if index == READ_FILE_BYTES / 8 {
            file.seek(SeekFrom::Start(0))?;
            index = 0;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits for a timer that expires every ten milliseconds, and tells each expiration to another thread.
fn wait_for_timer(shared: &Shared, events: &OwnedFd) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let interval = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    timerfd_settime(
        &timer,
        TimerfdTimerFlags::empty(),
        &Itimerspec {
            it_interval: interval,
            it_value: interval,
        },
    )?;
    loop {
        let expirations = read_number(&timer)?;
        shared.ticks.fetch_add(expirations, Ordering::SeqCst);
        // The last number is one too large: it says that there are no more.
        let stopping = shared.is_stopping();
        rustix::io::write(
            events,
            &(expirations + u64::from(stopping) * LAST).to_ne_bytes(),
        )?;
        if stopping {
            return Ok(());
        }
    }
}

/// Added to the last number told, far beyond what expirations come to.
const LAST: u64 = 1 << 40;

/// Waits for what the other thread tells.
fn wait_for_events(shared: &Shared, events: &OwnedFd) -> io::Result<()> {
    loop {
        let number = read_number(events)?;
        shared.events.fetch_add(number % LAST, Ordering::SeqCst);
        if number >= LAST {
            return Ok(());
        }
    }
}

/// Reads what a timer or an event counter gives.
fn read_number(fd: &OwnedFd) -> io::Result<u64> {
    let mut bytes = [0; 8];
    loop {
        match rustix::io::read(fd, &mut bytes) {
            Err(rustix::io::Errno::INTR) => {}
            read => {
                read?;
                return Ok(u64::from_ne_bytes(bytes));
            }
        }
    }
}

/// Fills memory and checks it, over and over, and once more in the end.
fn check_memory(shared: &Shared, seed: u64) -> io::Result<()> {
    let contents = Contents::fill(seed, shared.memory_bytes);
    loop {
        let stopping = shared.is_stopping();
        let checksum = contents.check().map_err(io::Error::other)?;
        let before = shared.checksum.swap(checksum, Ordering::SeqCst);
        if shared.memory_checks.fetch_add(1, Ordering::SeqCst) > 0 && before != checksum {
            return Err(io::Error::other("the checksum of memory changed"));
        }
        if stopping {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
