//! tmux: a server with terminals, shells as their sessions' leaders, jobs in the foreground, in the background and
//! stopped, and a client outside that types and looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::harness::context::needs;
use crate::harness::{Context, Program, Scene, Test, poll};

pub fn tests() -> Vec<Test> {
    vec![Test::new("tmux::shells_inside", shells_inside)]
}

/// The server stays in the foreground (-D), and its configuration makes three windows of one session: somebody to talk
/// to, somebody who writes without end, and an editor-like program that has the whole screen.
const CONFIGURATION: &str = "\
set -g default-command 'exec bash --norc --noprofile'
set -g history-limit 5000
new-session -d -s work -n talk -x 100 -y 30
new-window -t work -n noise 'i=0; while :; do echo line $((i += 1)); echo $i > $DIR/noise; sleep 0.01; done'
new-window -t work -n screen 'tput smcup; tput cup 5 10; echo inside; exec sleep 100000'
set -g exit-empty off
";

/// A job that can be stopped, continued and interrupted.
const JOB: &str =
    "trap 'echo; echo interrupted; exit' INT; echo fore ground; while :; do sleep 0.1; done";

struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    fn in_directory(directory: &Path) -> Self {
        Self {
            socket: directory.join("tmux"),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .args(words)
            .env_remove("TMUX")
            .stdin(Stdio::null());
        command
    }

    /// What a command of tmux's says.
    fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context("cannot run tmux")?;
        ensure!(
            output.status.success(),
            "tmux {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn answers(&self) -> bool {
        self.ask(&["has-session", "-t", "work:screen"]).is_ok()
    }

    /// Types a line to the shell.
    fn type_line(&self, line: &str) -> Result<()> {
        self.ask(&["send-keys", "-t", "work:talk", "-l", line])?;
        self.ask(&["send-keys", "-t", "work:talk", "Enter"])?;
        Ok(())
    }

    /// Presses a key.
    fn press(&self, key: &str) -> Result<()> {
        self.ask(&["send-keys", "-t", "work:talk", key]).map(drop)
    }

    /// What a window shows, with what has scrolled away.
    fn shows(&self, window: &str) -> Result<String> {
        let target = format!("work:{window}");
        self.ask(&["capture-pane", "-p", "-S", "-", "-t", &target])
    }

    /// Waits until the shell's window shows a line.
    fn await_line(&self, line: &str) -> Result<()> {
        let mut shown = String::new();
        poll::until(&format!("the line {line:?}"), || {
            shown = self.shows("talk")?;
            Ok(shown
                .lines()
                .any(|one| one.trim_end() == line)
                .then_some(()))
        })
        .with_context(|| format!("the window shows:\n{shown}"))
    }

    /// Types a line and waits for what comes of it.
    fn converse(&self, line: &str, answer: &str) -> Result<()> {
        self.type_line(line)?;
        self.await_line(answer)
    }
}

/// The number that the noisy window has come to.
fn noise(directory: &Path) -> u64 {
    fs::read_to_string(directory.join("noise"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// The noisy window writes on.
fn makes_noise(directory: &Path) -> Result<()> {
    let before = noise(directory);
    poll::until_true("the noisy window to go on", || {
        noise(directory) > before + 20
    })
}

fn shells_inside(context: &Context) -> Result<()> {
    needs("tmux")?;
    let directory = context.scene_directory()?;
    let configuration = directory.join("tmux.conf");
    fs::write(&configuration, CONFIGURATION)?;
    fs::write(directory.join("job"), JOB)?;
    let tmux = Tmux::in_directory(&directory);
    let program = Program::command("tmux")
        .args(["-D", "-S"])
        .arg(tmux.socket.display().to_string())
        .arg("-f")
        .arg(configuration.display().to_string());
    let mut scene = Scene::start_in(context, program, directory.clone(), || tmux.answers())?;
    set_up(&tmux)?;
    if !context.without_checkpoint {
        for round in 0..3 {
            scene.checkpoint(&format!("tmux:round{round}"))?;
            tmux.converse(
                &format!("echo round $(({round} + 0))"),
                &format!("round {round}"),
            )?;
            makes_noise(&directory)?;
        }
        for round in ["first", "second"] {
            let screen = tmux.shows("screen")?;
            scene.checkpoint_and_stop(&format!("tmux:{round}"))?;
            scene.restore(&format!("tmux:{round}"))?;
            ensure!(tmux.shows("screen")? == screen, "another screen");
            makes_noise(&directory)?;
            tmux.converse(&format!("echo $secret {round}"), &format!("42 {round}"))?;
        }
    }
    look_again(&tmux)?;
    tmux.ask(&["kill-server"])?;
    crate::harness::processes::wait_for_end(scene.root).map(drop)
}

/// What a person leaves behind in a shell: a variable, a job that was stopped, and one in the background.
fn set_up(tmux: &Tmux) -> Result<()> {
    tmux.converse("PS1=; secret=$((6 * 7)); echo set $secret", "set 42")?;
    tmux.converse("sleep 100000 & echo back ground", "back ground")?;
    tmux.converse("sh $DIR/job", "fore ground")?;
    tmux.press("C-z")?;
    tmux.converse(
        "echo jobs: $(jobs | grep -c -e Stopped -e Running)",
        "jobs: 2",
    )
}

/// Everything is still there, and the terminal still knows who is in the foreground.
fn look_again(tmux: &Tmux) -> Result<()> {
    tmux.converse("echo still $secret", "still 42")?;
    tmux.converse(
        "echo jobs now: $(jobs | grep -c -e Stopped -e Running)",
        "jobs now: 2",
    )?;
    tmux.converse("stty size", "30 100")?;
    tmux.type_line("fg %2")?;
    let foreground = [
        "display-message",
        "-p",
        "-t",
        "work:talk",
        "#{pane_current_command}",
    ];
    poll::until("the job to be in the foreground", || {
        Ok((tmux.ask(&foreground)?.trim() != "bash").then_some(()))
    })?;
    tmux.press("C-c")?;
    tmux.await_line("interrupted")?;
    tmux.converse("kill %1; wait %1; echo ended $?", "ended 143")
}
