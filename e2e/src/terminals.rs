//! Pseudo-terminals: both ends inside the tree, what runs on them, and jobs of a shell on a terminal outside.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::pty::{OpenptFlags, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::context::needs;
use crate::harness::scene::survives;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("terminals::both_ends", |c| {
            survives(c, Program::native("terminals"))
        }),
        Test::new("terminals::sessions", |c| {
            survives(c, Program::native("controlled"))
        }),
        Test::new("terminals::shell_with_jobs", shell_with_jobs),
        Test::new("terminals::job_of_a_shell", job_of_a_shell),
    ]
}

/// A shell on a terminal, both in the tree, with a stopped job, one in the background and a line half typed.
fn shell_with_jobs(context: &Context) -> Result<()> {
    needs("python3")?;
    needs("bash")?;
    let program = Program::command("python3")
        .arg("-c")
        .arg(include_str!("../programs/terminal.py"));
    let mut scene = Scene::start(context, program)?;
    if !context.without_checkpoint {
        // The job in the background starts programs all the time: no two looks are the same.
        for round in ["target:first", "target:second"] {
            scene.checkpoint("target:running")?;
            scene.checkpoint_and_stop(round)?;
            scene.restore(round)?;
            scene.cryopod.run(&["rm", "target:running"])?.succeeded()?;
        }
    }
    scene.finish()
}

/// A person at a terminal, and a shell on it.
struct Shell {
    keyboard: File,
    screen: mpsc::Receiver<Vec<u8>>,
    /// What is on the screen and was not looked for yet.
    seen: String,
    child: Child,
}

impl Shell {
    fn start(context: &Context, directory: &std::path::Path) -> Result<Self> {
        needs("bash")?;
        needs("setsid")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person: OwnedFd = openpt(flags)?;
        unlockpt(&person)?;
        let program = rustix::pty::ioctl_tiocgptpeer(&person, flags)?;
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
            .current_dir(directory)
            .env("PS1", "ready> ")
            .env("CRYOPOD", context.cryopod()?)
            .env("CRYOPOD_STORE", directory.join("store"))
            .stdin(program.try_clone()?)
            .stdout(program.try_clone()?)
            .stderr(program);
        let child = command.spawn().context("cannot start a shell")?;
        let (sender, screen) = mpsc::channel();
        let mut output = File::from(person.try_clone()?);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self {
            keyboard: person.into(),
            screen,
            seen: String::new(),
            child,
        };
        shell.shows("ready> ")?;
        Ok(shell)
    }

    fn types(&mut self, text: &str) -> Result<()> {
        Ok(self.keyboard.write_all(text.as_bytes())?)
    }

    /// Waits until a text is on the screen, behind what was looked for before.
    fn shows(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + poll::PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => bail!("waited in vain for {text:?} on the screen: {:?}", self.seen),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A job is checkpointed under its shell, and restored from the same one: it has the terminal, keys reach it once, and it
/// can be stopped and continued like any job.
fn job_of_a_shell(context: &Context) -> Result<()> {
    context.cryopod()?;
    // Only for its directory and its store.
    let mut scene = Scene::start(context, Program::native("auxiliary"))?;
    let directory = context.scene_directory()?;
    std::fs::write(directory.join("complaints"), "")?;
    let mut shell = Shell::start(context, &scene.directory)?;
    let words = Program::native("typist").words(context, &directory)?;
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    shell.types(&format!("{}\n", words.join(" ")))?;
    let ready = directory.join("ready");
    poll::until_true("the job", || ready.exists())?;
    let pid: i32 = std::fs::read_to_string(ready)?.trim().parse()?;
    scene.note_pid(pid);
    shell.types("one\n")?;
    shell.shows("heard one")?;
    scene
        .cryopod
        .json(&["checkpoint", &pid.to_string(), "target:job", "--stop"])?;
    shell.shows("ready> ")?;

    shell.types("\"$CRYOPOD\" restore target:job\n")?;
    shell.types("two\n")?;
    shell.shows("heard two")?;
    shell.types("\x1a")?;
    shell.shows("Stopped")?;
    shell.shows("ready> ")?;
    shell.types("echo $((40 + 2))\n")?;
    shell.shows("42\r\n")?;
    ensure!(
        processes::Stat::read(&pid.to_string())?.field(3) == "T",
        "the job is not stopped"
    );
    shell.types("fg\n")?;
    shell.types("three\n")?;
    shell.shows("heard three")?;
    let size = Winsize {
        ws_row: 51,
        ws_col: 99,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&shell.keyboard, size)?;
    shell.shows("size 51")?;
    shell.types("\x03")?;
    shell.shows("interrupt 1")?;
    shell.types("four\n")?;
    shell.shows("heard four")?;
    ensure!(
        !shell.seen.contains("interrupt"),
        "one key, two interrupts: {:?}",
        shell.seen
    );
    std::fs::write(directory.join("go"), "")?;
    shell.shows("ready> ")?;
    shell.types("echo code $?\n")?;
    shell.shows("code 7")?;
    let complaints = std::fs::read_to_string(directory.join("complaints"))?;
    ensure!(complaints.is_empty(), "the job complains: {complaints}");
    scene.finish()
}
