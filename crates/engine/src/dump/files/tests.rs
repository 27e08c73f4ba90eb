//! One process with every kind of descriptor, dumped, and its files opened again beside it.
//!
//! The process is this test binary started once more with the name of one test, [`child`], that opens the files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cryopod_image::SetReader;
use cryopod_image::criu::{FdTypes, FdinfoEntry, FileEntry};
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::*;
use crate::restore::{self, RestoreOptions};
use crate::tests::alone::alone;

const DIRECTORY: &str = "CRYOPOD_TEST_DIRECTORY";
const TABLE: u32 = 5;

/// The number under which a file is watched that is closed by the time of the dump.
const CLOSED: i32 = 90;

/// A running child and the numbers of its files, by name.
struct Subject {
    child: Child,
    numbers: BTreeMap<String, i32>,
    directory: tempfile::TempDir,
}

impl Subject {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "dump::files::tests::child",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut numbers = BTreeMap::new();
        for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            if line.ends_with("ready") {
                break;
            }
            if let Some((name, number)) = line
                .rsplit(' ')
                .next()
                .and_then(|word| word.split_once('='))
            {
                numbers.insert(name.to_owned(), number.parse().unwrap());
            }
        }
        Self {
            child,
            numbers,
            directory,
        }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn dump(&self, options: &DumpOptions) -> (tempfile::TempDir, SetReader) {
        let images = tempfile::tempdir().unwrap();
        let set = SetWriter::create(images.path()).unwrap();
        let mut files = Files::new(&set, options, &[self.pid()]).unwrap();
        let count = files.table(self.pid(), TABLE).unwrap();
        assert!(count >= self.numbers.len() + 3);
        let cwd = files.path(self.pid(), "cwd", 0).unwrap();
        assert_eq!(files.path(self.pid(), "cwd", 0).unwrap(), cwd);
        assert_ne!(files.path(self.pid(), "exe", 0).unwrap(), cwd);
        let (shared, _links) = files.finish().unwrap();
        assert_eq!(shared.len(), 1);
        assert_eq!(shared[0].size_bytes, 10_000);
        set.finish().unwrap();
        let set = SetReader::open(images.path(), None).unwrap();
        (images, set)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _gone_is_fine = self.child.kill();
        let _gone_is_fine = self.child.wait();
    }
}

/// A process that does nothing, with its standard output going into a pipe.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start(stdin: Stdio) -> Self {
        let mut command = Command::new("sleep");
        command
            .arg("1000")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _gone_is_fine = self.0.kill();
        let _gone_is_fine = self.0.wait();
    }
}

/// Everything the child opens, by name. Flags, positions and contents are such that a mistake shows.
fn open_everything(directory: &Path) -> BTreeMap<&'static str, OwnedFd> {
    let at = |name: &str| directory.join(name);
    let mut files: BTreeMap<&'static str, OwnedFd> = BTreeMap::new();

    fs::write(at("plain"), "0123456789").unwrap();
    let mut plain = File::options()
        .read(true)
        .append(true)
        .open(at("plain"))
        .unwrap();
    plain.seek(std::io::SeekFrom::Start(7)).unwrap();
    files.insert("duplicate", plain.try_clone().unwrap().into());
    files.insert("plain", plain.into());
    files.insert("twin", File::open(at("plain")).unwrap().into());
    files.insert(
        "null",
        File::options()
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into(),
    );
    files.insert("directory", File::open(directory).unwrap().into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    files.insert(
        "path",
        rustix::fs::open(at("plain"), flags, Mode::empty()).unwrap(),
    );

    fs::create_dir(at("sub")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("sub/link")).unwrap();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    files.insert(
        "gone-link",
        rustix::fs::open(at("sub/link"), flags, Mode::empty()).unwrap(),
    );
    fs::remove_file(at("sub/link")).unwrap();
    let mut gone = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("sub/gone"))
        .unwrap();
    gone.write_all(b"no name, but contents").unwrap();
    gone.set_len(50_000).unwrap();
    files.insert("gone-again", File::open(at("sub/gone")).unwrap().into());
    files.insert("gone-directory", File::open(at("sub")).unwrap().into());
    fs::remove_file(at("sub/gone")).unwrap();
    fs::remove_dir(at("sub")).unwrap();
    files.insert("gone", gone.into());

    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 16 * 4096).unwrap();
    rustix::io::write(&writer, &[b'p'; 9000]).unwrap();
    let own = format!("/proc/self/fd/{}", reader.as_raw_fd());
    files.insert(
        "both-ends",
        File::options()
            .read(true)
            .write(true)
            .open(own)
            .unwrap()
            .into(),
    );
    files.insert("pipe-reader", reader);
    files.insert("pipe-writer", writer);

    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reader =
        rustix::fs::open(at("fifo"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let writer = rustix::fs::open(at("fifo"), OFlags::WRONLY, Mode::empty()).unwrap();
    rustix::io::write(&writer, b"in the fifo").unwrap();
    files.insert("fifo-reader", reader);
    files.insert("fifo-writer", writer);

    let eventfd =
        rustix::event::eventfd(0, EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK).unwrap();
    rustix::io::write(&eventfd, &(1u64 << 40).to_ne_bytes()).unwrap();
    files.insert(
        "signalfd",
        cryopod_sys::fd::signalfd(1 << 9 | 1 << 33, true).unwrap(),
    );

    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty()).unwrap();
    let time = |tv_sec| Timespec { tv_sec, tv_nsec: 5 };
    let setting = Itimerspec {
        it_interval: time(3),
        it_value: time(100_000),
    };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting).unwrap();
    files.insert("timerfd", timer);

    let memfd =
        rustix::fs::memfd_create("named", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memfd, 10_000).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::GROW | SealFlags::SHRINK).unwrap();
    let own = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    files.insert("memfd-again", File::open(own).unwrap().into());
    files.insert("memfd", memfd);

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let watch = |file: &OwnedFd, data| {
        epoll::add(
            &epoll,
            file,
            epoll::EventData::new_u64(data),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )
        .unwrap();
    };
    watch(&eventfd, 77);
    // Watched under a number that is closed by now; the file lives on under another.
    let moving = rustix::io::fcntl_dupfd_cloexec(&files["timerfd"], CLOSED).unwrap();
    watch(&moving, 78);
    drop(moving);
    files.insert("eventfd", eventfd);
    files.insert("epoll", epoll);
    files
}

#[test]
#[ignore = "the other tests start it in a process of its own"]
#[expect(clippy::print_stdout, reason = "how the child talks to the test")]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let files = open_everything(Path::new(&directory));
    println!();
    for (name, file) in &files {
        println!("{name}={}", file.as_raw_fd());
    }
    println!("ready");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
}

fn table(set: &SetReader) -> BTreeMap<i32, FdinfoEntry> {
    let entries = set
        .read_all::<FdinfoEntry>(Image::Fdinfo, Some(u64::from(TABLE)))
        .unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.fd as i32, entry))
        .collect()
}

fn entries(set: &SetReader) -> BTreeMap<u32, FileEntry> {
    let entries = set.read_all::<FileEntry>(Image::Files, None).unwrap();
    entries.into_iter().map(|entry| (entry.id, entry)).collect()
}

fn options() -> DumpOptions {
    DumpOptions {
        external_stdio: true,
        ..DumpOptions::default()
    }
}

#[test]
fn every_kind_is_dumped_as_what_it_is() {
    alone(|| {
        let subject = Subject::start();
        let (_images, set) = subject.dump(&options());
        let (table, entries) = (table(&set), entries(&set));
        let of = |name: &str| &table[&subject.numbers[name]];
        let entry = |name: &str| &entries[&of(name).id];

        assert_eq!(of("plain").id, of("duplicate").id);
        assert_ne!(of("plain").id, of("twin").id);
        let plain = entry("plain").reg.as_deref().unwrap();
        assert_eq!((plain.pos, plain.size), (7, Some(10)));
        assert_eq!(
            plain.name,
            subject
                .directory
                .path()
                .join("plain")
                .as_os_str()
                .as_encoded_bytes()
        );
        assert_eq!(plain.flags & libc::O_CLOEXEC as u32, 0);
        assert_eq!(of("plain").flags, 1);
        assert_eq!(of("pipe-reader").flags, 0);

        let pipe = |name: &str| entry(name).pipe.as_deref().unwrap();
        assert_eq!(pipe("pipe-reader").pipe_id, pipe("pipe-writer").pipe_id);
        assert_eq!(pipe("both-ends").pipe_id, pipe("pipe-writer").pipe_id);
        assert_eq!(entry("eventfd").efd.as_deref().unwrap().counter, 1 << 40);
        assert_eq!(
            entry("signalfd").sgfd.as_deref().unwrap().sigmask,
            1 << 9 | 1 << 33
        );
        assert_eq!(entry("timerfd").tfd.as_deref().unwrap().isec, 3);
        let memfd = |name: &str| entry(name).memfd.as_deref().unwrap().inode_id;
        assert_eq!(memfd("memfd"), memfd("memfd-again"));

        let mut watched: Vec<(i32, u64)> = entry("epoll")
            .epfd
            .as_deref()
            .unwrap()
            .tfd
            .iter()
            .map(|one| (one.tfd as i32, one.data))
            .collect();
        watched.sort_by_key(|one| one.1);
        assert_eq!(
            watched,
            [
                (subject.numbers["eventfd"], 77),
                (subject.numbers["timerfd"], 78)
            ]
        );

        // The standard streams are pipes to the test.
        for fd in [0, 1] {
            let stream = entries[&table[&fd].id].reg.as_deref().unwrap();
            assert_eq!(table[&fd].r#type, i32::from(FdTypes::Reg));
            assert_eq!(stream.ext, Some(true));
            assert!(stream.name.starts_with(b"pipe:["));
        }
    });
}

#[test]
fn without_external_streams_half_a_pipe_is_a_pipe() {
    alone(|| {
        let subject = Subject::start();
        let (_images, set) = subject.dump(&DumpOptions::default());
        assert_eq!(table(&set)[&1].r#type, i32::from(FdTypes::Pipe));
    });
}

#[test]
fn files_opened_again_are_as_they_were() {
    alone(|| {
        let subject = Subject::start();
        let (_images, set) = subject.dump(&options());
        let table = table(&set);
        let mut files = restore::files::Files::load(&set).unwrap();
        let highest = files.highest_fd(&set, &[TABLE]).unwrap();
        // Whoever started the tests may have left higher numbers to them.
        assert_eq!(highest, CLOSED.max(*table.keys().last().unwrap()));
        let base = 500;
        files
            .open_all(&set, &RestoreOptions::default(), base)
            .unwrap();
        files.seal_memfds().unwrap();
        files.arm(&set).unwrap();

        let own = std::process::id() as i32;
        for (name, &fd) in &subject.numbers {
            let again = files.descriptor(table[&fd].id).unwrap();
            assert!(again >= base);
            let before = Seen::descriptor(subject.pid(), fd).unwrap();
            let after = Seen::descriptor(own, again).unwrap();
            assert_eq!(before.flags(), after.flags(), "{name}");
            assert_eq!(before.info.pos, after.info.pos, "{name}");
            assert_eq!(before.stat.st_mode, after.stat.st_mode, "{name}");
            assert_eq!(before.stat.st_size, after.stat.st_size, "{name}");
            assert_eq!(classify(&before), classify(&after), "{name}");
            if !before.link.starts_with(b"pipe:[") {
                assert_eq!(before.link, after.link, "{name}");
            }
            compare_lines(name, &before, &after);
        }
        check_contents(&subject, &files, &table);
        assert!(!subject.directory.path().join("sub").exists());
        let left = fs::read_dir(subject.directory.path()).unwrap();
        assert_eq!(left.count(), 2, "plain and fifo only");
    });
}

fn compare_lines(name: &str, before: &Seen, after: &Seen) {
    let keys: &[&str] = match name {
        "eventfd" => &["eventfd-count", "eventfd-semaphore"],
        "signalfd" => &["sigmask"],
        "timerfd" => &["clockid", "ticks", "settime flags", "it_interval"],
        _ => &[],
    };
    for key in keys {
        assert_eq!(
            before.info.value(key),
            after.info.value(key),
            "{name} {key}"
        );
    }
}

fn check_contents(
    subject: &Subject,
    files: &restore::files::Files,
    table: &BTreeMap<i32, FdinfoEntry>,
) {
    let borrow = |name: &str| files.borrow(table[&subject.numbers[name]].id).unwrap();
    let read = |name: &str| {
        let mut buffer = vec![0; 100_000];
        let len = rustix::io::read(borrow(name), &mut buffer).unwrap();
        buffer.truncate(len);
        buffer
    };
    assert_eq!(
        rustix::pipe::fcntl_getpipe_size(borrow("pipe-writer")).unwrap(),
        16 * 4096
    );
    assert_eq!(read("pipe-reader"), [b'p'; 9000]);
    rustix::io::write(borrow("both-ends"), b"more").unwrap();
    assert_eq!(read("pipe-reader"), b"more");
    assert_eq!(read("fifo-reader"), b"in the fifo");
    let gone = read("gone-again");
    assert_eq!(gone.len(), 50_000);
    assert!(gone.starts_with(b"no name, but contents"));
    let target = rustix::fs::readlinkat(borrow("gone-link"), "", Vec::new()).unwrap();
    assert_eq!(target.as_bytes(), b"nowhere");
    let seals = rustix::fs::fcntl_get_seals(borrow("memfd")).unwrap();
    assert_eq!(seals, SealFlags::GROW | SealFlags::SHRINK);
}
