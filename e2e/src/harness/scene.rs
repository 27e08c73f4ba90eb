//! One target in a directory of its own, with a store of its own, and what is done to it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::context::skip;
use super::cryopod::{Cryopod, find, find_all};
use super::snapshot::Snapshot;
use super::{Context, Program, poll, processes};

/// A target that has been started. Whatever is left of it is ended when this goes.
pub struct Scene<'a> {
    pub context: &'a Context,
    pub cryopod: Cryopod<'a>,
    pub program: Program,
    /// Where the target and the test talk: see `targets/common.h`.
    pub directory: PathBuf,
    /// The root of the tree.
    pub root: i32,
    /// Every pid that is known to belong to the target.
    pids: BTreeSet<i32>,
}

/// How many lines of a difference are shown.
const LINES_SHOWN: usize = 40;
/// How often to look before a difference is one.
const LOOKS: u32 = 40;

impl<'a> Scene<'a> {
    /// Starts a program and waits until it has set everything up.
    pub fn start(context: &'a Context, program: Program) -> Result<Self> {
        Self::start_with(context, program, |_| Ok(()))
    }

    /// The same, with a last word on how it is started, such as other standard streams.
    pub fn start_with(
        context: &'a Context,
        program: Program,
        adjust: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<Self> {
        let directory = context.scene_directory()?;
        let mut scene = Self::launch(context, program, directory, adjust)?;
        scene
            .await_file("ready")
            .context("the target did not get ready")?;
        scene.note_pids();
        Ok(scene)
    }

    /// Starts a program that knows nothing of this conversation, in a directory that was made for it, and waits until it
    /// answers.
    pub fn start_in(
        context: &'a Context,
        program: Program,
        directory: PathBuf,
        mut answers: impl FnMut() -> bool,
    ) -> Result<Self> {
        let mut scene = Self::launch(context, program, directory, |_| Ok(()))?;
        poll::until("the program to answer", || {
            ensure!(
                processes::is_alive(scene.root),
                "it ended before it answered\n{}",
                scene.words()
            );
            Ok(answers().then_some(()))
        })
        .with_context(|| scene.words())?;
        scene.note_pids();
        Ok(scene)
    }

    fn launch(
        context: &'a Context,
        program: Program,
        directory: PathBuf,
        adjust: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<Self> {
        let complaints = directory.join("complaints");
        fs::write(&complaints, "")?;
        fs::set_permissions(&complaints, fs::Permissions::from_mode(0o666))?;
        let mut command = program.launch(context, &directory)?;
        adjust(&mut command)?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let root = i32::try_from(child.id())?;
        // The command holds our copies of what the child got; pipes to it would not end while we had them.
        drop(command);
        let cryopod = Cryopod::new(context, &directory);
        Ok(Self {
            context,
            cryopod,
            program,
            directory,
            root,
            pids: BTreeSet::from([root]),
        })
    }

    /// Waits for a file of the target; its end, or a complaint about the set-up, comes as an error.
    pub fn await_file(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        let ended = poll::until(&format!("{name} of {:?}", self.program), || {
            // In this order: what ended a moment after it made the file is looked for twice.
            let alive = processes::is_alive(self.root);
            Ok((path.exists() || !alive || self.file("unable").is_some()).then_some(!alive))
        });
        if path.exists() {
            return Ok(());
        }
        if let Some(reason) = self.file("skip") {
            return skip(reason);
        }
        if let Some(reason) = self.file("unable") {
            bail!("it cannot: {reason}");
        }
        match ended {
            Ok(_) => bail!("it ended before it made {name}\n{}", self.words()),
            Err(error) => Err(error.context(self.words())),
        }
    }

    /// What a file of the directory holds, if there is one.
    pub fn file(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.directory.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What the target has said so far.
    pub fn words(&self) -> String {
        let complaints = self.file("complaints").unwrap_or_default();
        let log = self.file("log").unwrap_or_default();
        format!("complaints:\n{complaints}\nlog:\n{log}")
    }

    /// Remembers which processes there are now.
    pub fn note_pids(&mut self) {
        self.pids.extend(processes::tree(self.root));
    }

    /// Counts a process to the target, to be ended with it.
    pub fn note_pid(&mut self, pid: i32) {
        self.pids.insert(pid);
    }

    /// Looks at the tree.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self.root)
    }

    /// The tree must be as it was: nothing differs and nobody traces it. It may take a moment to get there: a thread that
    /// waits for signals, for example, has another mask while it does so.
    pub fn same_as(&self, before: &Snapshot, when: &str) -> Result<()> {
        let mut differences = Vec::new();
        for _ in 0..LOOKS {
            let after = self
                .snapshot()
                .with_context(|| format!("{when}\n{}", self.words()))?;
            differences = after
                .traced()
                .iter()
                .map(|who| format!("{who}: traced"))
                .collect();
            differences.extend(before.differences(&after, &self.program.ignoring));
            if differences.is_empty() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let shown = &differences[..differences.len().min(LINES_SHOWN)];
        bail!(
            "{when}: {} differences:\n  {}\n{}",
            differences.len(),
            shown.join("\n  "),
            self.words()
        )
    }

    fn checkpoint_words<'w>(&self, root: &'w str, reference: &'w str) -> Vec<&'w str> {
        let mut words = vec!["checkpoint", root, reference];
        words.extend(&self.program.checkpoint_options);
        words
    }

    /// Takes a checkpoint and leaves the target running.
    pub fn checkpoint(&self, reference: &str) -> Result<Value> {
        self.checkpoint_with(reference, &[])
    }

    /// The same, with more on the command line.
    pub fn checkpoint_with(&self, reference: &str, options: &[&str]) -> Result<Value> {
        let root = self.root.to_string();
        self.cryopod
            .json(&[&self.checkpoint_words(&root, reference)[..], options].concat())
    }

    /// Takes a checkpoint in the place of the last one that this took, and leaves the target running.
    pub fn checkpoint_again(&self) -> Result<Value> {
        let root = self.root.to_string();
        self.cryopod
            .json(&["checkpoint", &root, "target:again", "--replace"])
    }

    /// Ends the target's processes.
    pub fn end(&mut self) -> Result<()> {
        self.note_pids();
        // All at once: whoever is left for a moment would complain about those who are gone.
        for pid in self.pids.iter().filter(|pid| processes::is_alive(**pid)) {
            processes::signal(*pid, rustix::process::Signal::STOP)?;
        }
        processes::end_all(&self.pids);
        self.await_nothing_left()
    }

    /// Takes a checkpoint that ends the target, and waits until nothing of it is left.
    pub fn checkpoint_and_stop(&mut self, reference: &str) -> Result<Value> {
        self.checkpoint_and_stop_with(reference, &[])
    }

    /// The same, with more on the command line.
    pub fn checkpoint_and_stop_with(&mut self, reference: &str, options: &[&str]) -> Result<Value> {
        self.note_pids();
        let report = self.checkpoint_with(reference, &[&["--stop"], options].concat())?;
        self.note_stored_pids(reference)?;
        self.await_nothing_left()?;
        Ok(report)
    }

    /// Remembers the processes that are in a checkpoint: some may not have been there a moment before.
    fn note_stored_pids(&mut self, reference: &str) -> Result<()> {
        let document = self.cryopod.json(&["inspect", reference])?;
        let mut stored = Vec::new();
        find_all(&document, "pid", &mut stored);
        let pids = stored
            .iter()
            .filter_map(|one| one.get("pid").and_then(Value::as_i64));
        for pid in pids {
            self.pids.insert(i32::try_from(pid)?);
        }
        Ok(())
    }

    /// Waits until none of the target's processes is there any more.
    pub fn await_nothing_left(&self) -> Result<()> {
        poll::until_true("the target's processes to be gone", || {
            processes::reap_all(&self.pids);
            !self.pids.iter().any(|pid| processes::exists(*pid))
        })
    }

    /// Brings the target back, detached.
    pub fn restore(&mut self, reference: &str) -> Result<Value> {
        self.restore_with(reference, &[])
    }

    /// The same, with more on the command line.
    pub fn restore_with(&mut self, reference: &str, options: &[&str]) -> Result<Value> {
        let mut words = vec!["restore", reference, "--detach"];
        words.extend(&self.program.restore_options);
        words.extend(options);
        let report = self.cryopod.json(&words)?;
        let root = find(&report, "root_pid").and_then(Value::as_i64);
        ensure!(
            root == Some(self.root.into()),
            "the root is {root:?}, not {}: {report}",
            self.root
        );
        self.note_pids();
        Ok(report)
    }

    /// A checkpoint that leaves the target running, then two rounds of restoring it, the second of what the first one
    /// brought back: once it stood still until all was read, once it went on meanwhile (unless it writes to files then).
    /// After each the tree must look as before.
    pub fn put_through_everything(&mut self) -> Result<()> {
        if self.context.without_checkpoint {
            return Ok(());
        }
        let before = self.snapshot()?;
        self.checkpoint("target:running")
            .context("checkpoint of a running target")?;
        self.same_as(&before, "after a checkpoint that leaves it running")?;
        for round in ["target:first", "target:second"] {
            if round == "target:first" || self.program.writes {
                self.checkpoint_and_stop(round).context(round)?;
            } else {
                self.checkpoint(round).context(round)?;
                self.end()?;
            }
            self.restore(round)
                .with_context(|| format!("{round}\n{}", self.words()))?;
            self.same_as(&before, &format!("after the restore of {round}"))?;
        }
        Ok(())
    }

    /// Tells the target to go on, and waits for its verdict and its end.
    pub fn finish(self) -> Result<()> {
        self.tell_to_go()?;
        self.await_file("done")?;
        let code = processes::wait_for_end(self.root)?;
        self.content()?;
        ensure!(
            code == self.program.exit_code,
            "it ended with {code}\n{}",
            self.words()
        );
        Ok(())
    }

    /// Makes the file that the target waits for.
    pub fn tell_to_go(&self) -> Result<()> {
        fs::write(self.directory.join("go"), "").context("cannot tell the target to go on")
    }

    /// The target must have found nothing to complain about so far.
    pub fn content(&self) -> Result<()> {
        let complaints = self.file("complaints").unwrap_or_default();
        ensure!(
            complaints.is_empty(),
            "the target complains:\n{}",
            self.words()
        );
        Ok(())
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.note_pids();
        processes::end_all(&self.pids);
    }
}

/// The usual test: the target goes through everything and finds its world intact.
pub fn survives(context: &Context, program: Program) -> Result<()> {
    let mut scene = Scene::start(context, program)?;
    scene.put_through_everything()?;
    scene.finish()
}

/// For what may be supported one day: either the target goes through everything, or it is refused as unsupported before
/// anything has happened to it. In both cases it finds its world intact.
pub fn survives_or_is_refused(context: &Context, program: Program) -> Result<()> {
    let mut scene = Scene::start(context, program)?;
    if !context.without_checkpoint {
        let before = scene.snapshot()?;
        let ran = scene.cryopod.run(&[
            "checkpoint",
            &scene.root.to_string(),
            "target:probe",
            "--json",
        ])?;
        if ran.status.success() {
            scene.put_through_everything()?;
        } else {
            ran.failed("unsupported")?
                .says(&format!("{}", scene.root))?;
            scene.same_as(&before, "after a refusal")?;
        }
    }
    scene.finish()
}
