//! Standard streams that lead outside of the tree, and being the parent of what was restored.

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, openpt, unlockpt};

use crate::harness::cryopod::Running;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("stdio::pipes_are_joined", |c| pipes_are_joined(c, "auto")),
        Test::new("stdio::pipes_are_inherited", |c| {
            pipes_are_joined(c, "inherit")
        }),
        Test::new(
            "stdio::files_are_kept_or_inherited",
            files_are_kept_or_inherited,
        ),
        Test::new("stdio::nowhere", nowhere),
        Test::new("stdio::terminal", terminal),
        Test::new("stdio::terminal_is_kept", terminal_is_kept),
        Test::new(
            "stdio::signals_and_exit_code_are_passed_on",
            signals_and_exit_code_are_passed_on,
        ),
        Test::new(
            "stdio::end_by_a_signal_is_passed_on",
            end_by_a_signal_is_passed_on,
        ),
        Test::new("stdio::no_signal_comes_between", no_signal_comes_between),
        Test::new("stdio::pidfile", pidfile),
        Test::new("stdio::run_leads_a_session", run_leads_a_session),
    ]
}

fn speaker() -> Program {
    Program::native("speaker").exits_with(7)
}

/// Lines that arrive from somewhere.
struct Lines {
    receiver: mpsc::Receiver<String>,
    /// The number of the last tick that was heard.
    tick: Option<u64>,
}

impl Lines {
    fn of(input: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // A terminal whose other side is closed ends with an error.
            for line in BufReader::new(input).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            receiver,
            tick: None,
        }
    }

    /// The next line; nothing at the end. Ticks must come in order, whoever passes them on.
    fn next(&mut self) -> Result<Option<String>> {
        let line = match self.receiver.recv_timeout(poll::PATIENCE) {
            Ok(line) => line.trim_end_matches('\r').to_owned(),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("waited in vain for another line"),
        };
        if let Some(number) = line.strip_prefix("tick ") {
            let number: u64 = number
                .parse()
                .with_context(|| format!("a strange line: {line:?}"))?;
            if let Some(last) = self.tick {
                ensure!(number == last + 1, "tick {number} after tick {last}");
            }
            self.tick = Some(number);
        }
        Ok(Some(line))
    }

    /// Waits for a line that begins so, among ticks without end.
    fn until(&mut self, start: &str) -> Result<()> {
        let deadline = Instant::now() + poll::PATIENCE;
        while let Some(line) = self.next()? {
            if line.starts_with(start) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "waited in vain for {start:?}, up to {line:?}"
            );
        }
        bail!("the output ended before {start:?} came")
    }

    fn drain(&mut self) -> Result<()> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

/// A speaker whose streams are pipes to the test.
fn talking(context: &Context) -> Result<(Scene<'_>, PipeWriter, Lines)> {
    let (input, to_input) = pipe()?;
    let (from_output, output) = pipe()?;
    let scene = Scene::start_with(context, speaker(), |command| {
        command
            .stdin(input)
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(())
    })?;
    Ok((scene, to_input, Lines::of(from_output)))
}

/// Stops the speaker and brings it back in the foreground, joined to other pipes.
fn restored<'a>(
    context: &'a Context,
    arguments: &[&str],
) -> Result<(Scene<'a>, PipeWriter, Lines, Running)> {
    context.cryopod()?;
    let (mut scene, to_input, mut lines) = talking(context)?;
    lines.until("tick 3")?;
    scene.checkpoint_and_stop("target:spoken")?;
    lines.drain()?;
    drop(to_input);
    let (input, to_input) = pipe()?;
    let (from_output, output) = pipe()?;
    let mut command = scene.cryopod.command(&["restore", "target:spoken"])?;
    command.args(arguments).stdin(input);
    let mut now = Lines {
        tick: lines.tick,
        ..Lines::of(from_output)
    };
    let running = scene
        .cryopod
        .start_command_talking(command, output.into())?;
    now.until("tick")?;
    scene.note_pids();
    Ok((scene, to_input, now, running))
}

/// Not a line gets lost between the old pipe and the new one, and input arrives.
fn pipes_are_joined(context: &Context, stdio: &str) -> Result<()> {
    let (scene, mut to_input, mut lines, running) = restored(context, &["--stdio", stdio])?;
    to_input.write_all(b"hello\n")?;
    lines.until("heard hello")?;
    scene.tell_to_go()?;
    lines.until("bye")?;
    let ran = running.wait()?;
    ensure!(ran.status.code() == Some(7), "{ran:?}");
    scene.content()
}

fn signals_and_exit_code_are_passed_on(context: &Context) -> Result<()> {
    let (scene, _to_input, mut lines, running) = restored(context, &[])?;
    processes::signal(running.pid(), Signal::USR1)?;
    lines.until("usr1")?;
    processes::signal(running.pid(), Signal::TERM)?;
    lines.until("term")?;
    let ran = running.wait()?;
    ensure!(ran.status.code() == Some(9), "{ran:?}");
    scene.content()
}

/// Whenever a SIGTERM comes, either there is no program afterwards, or it has got the signal: never does cryopod end and
/// leave it to itself.
fn no_signal_comes_between(context: &Context) -> Result<()> {
    const MOMENTS: u32 = 24;
    context.cryopod()?;
    let (mut scene, _to_input, mut lines) = talking(context)?;
    lines.until("tick 3")?;
    scene.checkpoint_and_stop("target:moment")?;
    lines.drain()?;
    let (mut before, mut passed_on) = (0, 0);
    for moment in 0..MOMENTS {
        let (input, _to_input) = pipe()?;
        let (from_output, output) = pipe()?;
        let mut command = scene.cryopod.command(&["restore", "target:moment"])?;
        command.stdin(input);
        let running = scene
            .cryopod
            .start_command_talking(command, output.into())?;
        // From the first instant to some time after the program runs, in steps of whatever the machine is fast at.
        let mut said = Lines::of(from_output);
        for _ in 0..moment * 4000 {
            std::hint::spin_loop();
        }
        if moment % 3 != 0 {
            poll::until_true("something to happen", || {
                processes::is_alive(scene.root) || !processes::is_alive(running.pid())
            })?;
        }
        processes::signal(running.pid(), Signal::TERM)?;
        let ran = running.wait()?;
        match ran.status.code() {
            Some(9) => passed_on += 1,
            // Before there was a handler, or before there was a program.
            _ => before += 1,
        }
        let told = |line: &str| line == "term";
        let mut heard = false;
        while let Some(line) = said.next()? {
            heard |= told(&line);
        }
        ensure!(
            heard == (ran.status.code() == Some(9)),
            "at moment {moment} cryopod ended with {:?}, and the program said so: {heard}",
            ran.status
        );
        scene.await_nothing_left()?;
    }
    ensure!(before + passed_on == MOMENTS);
    // Nobody listens any more.
    let nowhere = ["restore", "target:moment", "--detach", "--stdio", "null"];
    scene.cryopod.json(&nowhere)?;
    scene.note_pids();
    scene.finish()
}

fn end_by_a_signal_is_passed_on(context: &Context) -> Result<()> {
    let (scene, mut to_input, _lines, running) = restored(context, &[])?;
    to_input.write_all(b"die\n")?;
    let ran = running.wait()?;
    let killed = Signal::KILL.as_raw();
    ensure!(
        ran.status.code() == Some(128 + killed) || ran.status.signal() == Some(killed),
        "{ran:?}"
    );
    scene.content()
}

/// A stream that is a plain file stays that file; with `inherit` it does not.
fn files_are_kept_or_inherited(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, speaker())?;
    let before = scene.snapshot()?;
    let log = || scene_log(&scene);
    poll::until_true("a tick", || log().contains("tick 3"))?;
    scene.checkpoint_and_stop("target:filed")?;
    scene.restore("target:filed")?;
    scene.program.ignoring.push("/fd ");
    scene.same_as(&before, "after the restore")?;
    let length = scene_log(&scene).len();
    poll::until_true("more ticks in the same file", || {
        scene_log(&scene).len() > length
    })?;
    // Neither is one missing nor is one there twice.
    let log = scene_log(&scene);
    for (number, line) in log
        .lines()
        .filter(|line| line.starts_with("tick"))
        .enumerate()
    {
        ensure!(
            log.len() > 4 && line == format!("tick {number}"),
            "{line:?} is line {number} of\n{log}"
        );
    }
    scene.checkpoint_and_stop("target:again")?;
    let inherit = ["restore", "target:again", "--detach", "--stdio", "inherit"];
    scene.cryopod.run(&inherit)?.succeeded()?;
    let link = fs::read_link(format!("/proc/{}/fd/1", scene.root))?;
    ensure!(
        link != scene.directory.join("log"),
        "the output still leads to {}",
        link.display()
    );
    scene.finish()
}

fn scene_log(scene: &Scene) -> String {
    // The last line may not be complete yet.
    let mut log = scene.file("log").unwrap_or_default();
    log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
    log
}

/// With `null` the streams lead nowhere, and the program goes on.
fn nowhere(context: &Context) -> Result<()> {
    context.cryopod()?;
    let (mut scene, _to_input, mut lines) = talking(context)?;
    lines.until("tick 3")?;
    scene.checkpoint_and_stop("target:nowhere")?;
    scene
        .cryopod
        .json(&["restore", "target:nowhere", "--detach", "--stdio", "null"])?;
    scene.note_pids();
    for fd in 0..3 {
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", scene.root))?;
        ensure!(
            link.as_os_str() == "/dev/null",
            "stream {fd} leads to {}",
            link.display()
        );
    }
    scene.finish()
}

/// A pseudo-terminal: the side of the person, and the side of the program.
fn open_terminal() -> Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let person = openpt(flags).context("cannot open a pseudo-terminal")?;
    unlockpt(&person)?;
    let program = rustix::pty::ioctl_tiocgptpeer(&person, flags)?;
    Ok((person, program))
}

/// A speaker on a terminal, with its lines.
fn on_a_terminal(context: &Context) -> Result<(Scene<'_>, OwnedFd, Lines)> {
    let (person, program) = open_terminal()?;
    let scene = Scene::start_with(context, speaker(), |command| {
        command
            .stdin(program.try_clone()?)
            .stdout(program.try_clone()?)
            .stderr(program);
        Ok(())
    })?;
    let lines = Lines::of(fs::File::from(person.try_clone()?));
    Ok((scene, person, lines))
}

/// From one terminal to another.
fn terminal(context: &Context) -> Result<()> {
    context.cryopod()?;
    let (mut scene, _person, mut lines) = on_a_terminal(context)?;
    lines.until("tick 3")?;
    scene.checkpoint_and_stop("target:terminal")?;
    lines.drain()?;
    let (person, program) = open_terminal()?;
    let mut command = scene.cryopod.command(&["restore", "target:terminal"])?;
    command.stdin(program.try_clone()?);
    let mut now = Lines {
        tick: lines.tick,
        ..Lines::of(fs::File::from(person.try_clone()?))
    };
    let running = scene
        .cryopod
        .start_command_talking(command, program.into())?;
    now.until("tick")?;
    scene.note_pids();
    fs::File::from(person.try_clone()?).write_all(b"hello\n")?;
    now.until("heard hello")?;
    scene.tell_to_go()?;
    now.until("bye")?;
    let ran = running.wait()?;
    ensure!(ran.status.code() == Some(7), "{ran:?}");
    scene.content()
}

/// With `keep` the program is back on its own terminal, as long as that is there.
fn terminal_is_kept(context: &Context) -> Result<()> {
    context.cryopod()?;
    let (person, program) = open_terminal()?;
    let held = program.try_clone()?;
    let mut scene = Scene::start_with(context, speaker(), |command| {
        command
            .stdin(program.try_clone()?)
            .stdout(program.try_clone()?)
            .stderr(program);
        Ok(())
    })?;
    let mut lines = Lines::of(fs::File::from(person));
    lines.until("tick 3")?;
    let terminal = fs::read_link(format!("/proc/{}/fd/1", scene.root))?;
    scene.checkpoint_and_stop("target:terminal")?;
    scene
        .cryopod
        .json(&["restore", "target:terminal", "--detach", "--stdio", "keep"])?;
    let link = |fd| fs::read_link(format!("/proc/{}/fd/{fd}", scene.root));
    for fd in 0..3 {
        ensure!(
            link(fd)? == terminal,
            "stream {fd} leads to {}",
            link(fd)?.display()
        );
    }
    let last = lines.tick;
    while lines.tick == last {
        ensure!(lines.next()?.is_some(), "the terminal has ended");
    }
    drop(held);
    scene.finish()
}

fn pidfile(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("auxiliary"))?;
    scene.checkpoint_and_stop("target:pidfile")?;
    let path = scene.directory.join("pidfile").display().to_string();
    scene
        .cryopod
        .json(&["restore", "target:pidfile", "--detach", "--pidfile", &path])?;
    let pid = scene.file("pidfile").unwrap_or_default();
    ensure!(
        pid.trim() == scene.root.to_string(),
        "the pidfile holds {pid:?}"
    );
    scene.finish()
}

/// `cryopod run` starts a program in its own session; that can be checkpointed, and `run` then ends as the program did.
fn run_leads_a_session(context: &Context) -> Result<()> {
    context.cryopod()?;
    // Only for its directory and its store.
    let mut scene = Scene::start(context, speaker())?;
    let directory = context.scene_directory()?;
    fs::write(directory.join("complaints"), "")?;
    let words = speaker().words(context, &directory)?;
    let mut command = scene.cryopod.command(&["run", "--"])?;
    command.args(words).stdin(Stdio::null());
    let running = scene.cryopod.start_command(command)?;
    let ready = directory.join("ready");
    poll::until_true("the program that was run", || ready.exists())?;
    let pid: i32 = fs::read_to_string(ready)?.trim().parse()?;
    scene.note_pid(pid);
    let stat = processes::Stat::read(&pid.to_string())?;
    ensure!(
        stat.field(6) == pid.to_string(),
        "pid {pid} is in session {}",
        stat.field(6)
    );
    scene
        .cryopod
        .json(&["checkpoint", &pid.to_string(), "target:run", "--stop"])?;
    let ran = running.wait()?;
    ensure!(
        !ran.status.success(),
        "the program was killed, and yet: {ran:?}"
    );
    scene.cryopod.json(&["restore", "target:run", "--detach"])?;
    ensure!(processes::is_alive(pid), "pid {pid} did not come back");
    fs::write(directory.join("go"), "")?;
    ensure!(
        processes::wait_for_end(pid)? == 7,
        "the program ended in another way"
    );
    scene.finish()
}
