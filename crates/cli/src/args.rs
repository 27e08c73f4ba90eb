//! What was typed: the command line as clap sees it, and the texts that explain it.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use cryopod::{CgroupRoot, ManageCgroups};

/// Shown under every `cryopod --help`.
const AFTER_HELP: &str = "\
Examples:
  cryopod run -- python3 server.py     start a program, ready to be checkpointed
  cryopod checkpoint 1234              checkpoint the process 1234 and all its children; they go on
  cryopod checkpoint --stop 1234 web   the same as web:TIME, and end them once it is safely stored
  cryopod ls                           what is in the store
  cryopod restore web                  bring back the newest checkpoint under the label web
  cryopod doctor                       what this machine has and lacks for all that

Exit codes:
  0  done
  1  the system failed (a full disk, a program that ended meanwhile), or a mistake in cryopod
  2  the command line is wrong
  3  not found: no such process or checkpoint
  4  invalid input: a bad name, a target that makes no sense
  5  unsupported: what the program uses cannot be checkpointed, or this machine cannot restore it
  6  permission denied
  7  busy: a name, a pid or a program that something else has hold of
  8  corrupt: a checkpoint is not what was written
A program that `cryopod restore` and `cryopod run` stay in the foreground for passes on its own exit code.";

/// Freeze a running program, wake it anywhere.
///
/// cryopod takes a live process tree into a named checkpoint and brings it back under the same pids: memory, threads,
/// open files, pipes, timers and signals as they were. The program never knows.
#[derive(Clone, Debug, Parser)]
#[command(name = "cryopod", version, after_help = AFTER_HELP, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Global {
    /// Where checkpoints are kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CRYOPOD_STORE",
        hide_env_values = true,
        default_value = "/var/lib/cryopod"
    )]
    #[arg(help_heading = "Global options")]
    pub(crate) store: PathBuf,

    /// Print one JSON document on standard output, also when something fails
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    /// Tell on standard error what is going on; -vv tells more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,

    /// What to tell on standard error unless there is a -v: error, warn (default), info, debug, trace, or filters such as
    /// cryopod_engine=debug
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "CRYOPOD_LOG",
        hide_env_values = true
    )]
    #[arg(help_heading = "Global options")]
    pub(crate) log_level: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Checkpoint a running program
    ///
    /// Takes the process and all its descendants into a checkpoint named LABEL:NAME. They stand still while they are
    /// read and then go on, unless --stop ends them. If anything goes wrong they go on as before, and the store has
    /// nothing new. What cannot be checkpointed is listed before anything is touched.
    #[command(after_help = "\
Examples:
  cryopod checkpoint 1234                      as COMMAND:TIME: python3:20261121T051530.123Z
  cryopod checkpoint pid:1234 web              as web:TIME
  cryopod checkpoint 1234 web:before-upgrade   as exactly that
  cryopod checkpoint --stop 1234 web           end the program once its checkpoint is safely stored
  cryopod checkpoint --incremental 1234 web    store what has changed since the last one

The name of the checkpoint is printed on standard output.")]
    Checkpoint(Checkpoint),

    /// Bring a checkpoint back to life
    ///
    /// The processes come back under the pids they had; one that is taken is an error that names who has it. Stays in the
    /// foreground as their parent, passes signals on, and exits as the program exits.
    #[command(after_help = "\
Examples:
  cryopod restore web                          the newest checkpoint under the label web
  cryopod restore web:before-upgrade           exactly that one
  cryopod restore --detach --pidfile web.pid web
  cryopod restore --lazy web                   run at once, fill the memory meanwhile
  cryopod restore --dir /tmp/images            a directory that `criu dump` wrote

Standard streams that led outside of the checkpointed tree (to a terminal, to a pager):
  --stdio auto      are joined to those of this command (default)
  --stdio keep      are opened again where they led, if that is still there
  --stdio null      lead nowhere
  --stdio inherit   as auto, and so are those that were plain files")]
    Restore(Restore),

    /// List checkpoints
    #[command(after_help = "\
Examples:
  cryopod ls               all of them, the newest first
  cryopod ls web           those under the label web
  cryopod ls --json        for programs")]
    Ls {
        /// List only what is under this label
        label: Option<String>,
    },

    /// Show what is in a checkpoint
    ///
    /// The process tree with command lines, memory and descriptors, sizes, and where and how it was made.
    #[command(after_help = "\
Examples:
  cryopod inspect web                   the newest checkpoint under the label web
  cryopod inspect web --descriptors     with every open file")]
    Inspect {
        /// LABEL or LABEL:NAME
        reference: String,
        /// List the open descriptors of every process
        #[arg(short, long)]
        descriptors: bool,
    },

    /// Remove checkpoints
    ///
    /// One that others build on is not removed, unless they go with it or --merge is given.
    #[command(after_help = "\
Examples:
  cryopod rm web:before-upgrade
  cryopod rm web db:v1                  LABEL alone means the newest under it
  cryopod rm --merge web:monday         keep those that were made on top of it")]
    Rm {
        /// Fold a checkpoint into those that build on it before it is removed
        #[arg(long)]
        merge: bool,
        /// LABEL or LABEL:NAME
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },

    /// Follow what a program writes to, so that its checkpoints can be incremental
    ///
    /// Starts a small process, the tracker, that leaves with the program. `checkpoint --incremental` does this by itself; the
    /// checkpoint after it stores everything, and later ones only what has changed.
    #[command(after_help = "\
Examples:
  cryopod track 1234
  cryopod checkpoint 1234 web                  everything
  cryopod checkpoint --incremental 1234 web    what has changed since")]
    Track {
        /// What to follow: a process id, as 1234 or pid:1234
        target: String,
    },

    /// End what `cryopod track` began
    ///
    /// The next checkpoint stores everything.
    Untrack {
        /// What was followed: a process id, as 1234 or pid:1234
        target: String,
    },

    /// Tell what this machine has and lacks
    ///
    /// Kernel features and privileges, and what the lack of each one costs. Fails if something is missing without which
    /// nothing works.
    Doctor,

    /// Start a program, ready to be checkpointed
    ///
    /// The program is started in a session of its own, which a checkpoint can take along as a whole. Stays in the
    /// foreground as its parent, passes signals on, and exits as the program exits.
    #[command(after_help = "\
Examples:
  cryopod run -- python3 server.py
  cryopod run --detach --pidfile server.pid -- python3 server.py
  cryopod checkpoint $(cat server.pid)")]
    Run(Run),

    /// Speak criu's command line
    ///
    /// What cryopod also does when it is called by the name criu; `cryopod criu --help` tells what there is.
    #[command(disable_help_flag = true)]
    Criu {
        /// Arguments as criu takes them
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<OsString>,
    },

    /// Checkpoint, kill and restore a small tree of programs, and prove that nothing got lost
    ///
    /// Starts a parent and two children of its own with threads, memory, pipes, open files and timers in a temporary
    /// directory, and leaves nothing behind. Needs root.
    Demo(Demo),

    /// Write man pages and shell completions
    #[command(name = "__generate", hide = true)]
    Generate {
        /// Where to: DIR/man and DIR/completions
        dir: PathBuf,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Checkpoint {
    /// What to checkpoint: a process id, as 1234 or pid:1234
    pub(crate) target: String,
    /// What to call it: LABEL is the command's name by default, NAME the time in UTC
    #[arg(value_name = "LABEL[:NAME]")]
    pub(crate) reference: Option<String>,
    /// End the program once its checkpoint is safely stored
    #[arg(long)]
    pub(crate) stop: bool,
    /// Accept descriptors of a terminal that belongs to somebody else, such as a shell's; standard streams always are.
    /// The restored program gets the terminal of whoever restores it
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Take the place of a checkpoint that has the name already, in one step
    #[arg(long)]
    pub(crate) replace: bool,
    /// Take file locks and leases along. Without it, a program that holds one is refused: whoever waits for the lock gets
    /// it as soon as the program ends, and the restored program cannot have it then
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// Make hard links, called link_remap.N, for open files whose name is gone while other names of them are left. They
    /// stay there, because the checkpoint needs them. Without it, such files are refused
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// How large a deleted file that is still open may be; its contents are taken along. A number of bytes, or with K, M
    /// or G behind it
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_size)]
    pub(crate) ghost_limit: u64,
    /// Search DIR for files that are watched (inotify, fanotify) and whose path the kernel does not tell; may be given
    /// several times
    #[arg(long = "irmap-scan-path", value_name = "DIR")]
    pub(crate) irmap_scan_paths: Vec<PathBuf>,
    /// Search for the paths of watched files even where the kernel can open them by their handles, which other machines
    /// cannot
    #[arg(long)]
    pub(crate) force_irmap: bool,
    /// Allow unix sockets of datagrams that are connected to an address outside the tree, as to a log daemon; a restore
    /// connects them to that address again
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// How long the program stands still: `live` copies its processes copy-on-write and lets it go on while the copies
    /// are read, which takes milliseconds and, for each page written to meanwhile, another page; `stop` holds it until
    /// all is read; `auto` is live where memory and pids allow
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "MODE",
        conflicts_with = "stop"
    )]
    pub(crate) freeze: FreezeMode,
    /// Threads that read and write memory [default: as many as processors]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Store only what the program has written to since its last checkpoint; the rest stays there, and neither is whole
    /// without the other. The first time everything is stored, and a tracker is started that follows what the program
    /// writes to (see `cryopod track`)
    #[arg(long, conflicts_with = "parent")]
    pub(crate) incremental: bool,
    /// As --incremental, if the last checkpoint is this one. If it is not, everything is stored
    #[arg(long, value_name = "LABEL[:NAME]")]
    pub(crate) parent: Option<String>,
    /// Take TCP connections along. With --stop their peers wait, and none of their packets gets through, until the
    /// program is restored; without it a restore only finds its peer if the program has not talked with it since. Without
    /// this or --tcp-close, a program that has a connection is refused
    #[arg(long, conflicts_with = "tcp_close")]
    pub(crate) tcp_established: bool,
    /// Leave TCP connections out: their sockets come back closed
    #[arg(long)]
    pub(crate) tcp_close: bool,
    /// Leave connections behind that a listening program has not accepted yet, instead of refusing it
    #[arg(long)]
    pub(crate) skip_in_flight: bool,
    /// How connections are kept from changing meanwhile: by a table of nf_tables, or not at all because you see to it
    #[arg(long, value_enum, value_name = "METHOD", default_value_t = NetworkLock::Nftables)]
    pub(crate) network_lock: NetworkLock,
}

/// How connections are locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkLock {
    #[default]
    Nftables,
    Skip,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Restore {
    /// The checkpoint; without NAME, the newest under LABEL
    #[arg(value_name = "LABEL[:NAME]", required_unless_present = "dir")]
    pub(crate) reference: Option<String>,
    /// Restore a directory of images as `criu dump` writes it
    #[arg(long, value_name = "DIR", conflicts_with = "reference")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the program to itself once it runs
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Let the program run before its memory is there. Pages come when it touches them, and the rest in the background,
    /// from a helper process that leaves when all are there. Until then the checkpoint must stay readable; if the helper
    /// is killed or finds a page that is not what was stored, the program is ended rather than given a wrong one
    #[arg(long)]
    pub(crate) lazy: bool,
    /// Threads that read memory and fill it in [default: as many as processors]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Write the pid of the first process to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// Open files also when their size or mode is not what it was at the checkpoint, instead of refusing to restore
    #[arg(long)]
    pub(crate) force_files: bool,
    /// How programs and libraries are known again: build-id (by the note that the linker leaves in them, where there is
    /// one, besides size and mode) or size (by size and mode alone)
    #[arg(long, value_enum, value_name = "HOW", default_value_t = FileValidation::BuildId, hide_possible_values = true)]
    pub(crate) file_validation: FileValidation,
    /// What becomes of standard streams that led outside of the tree
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Stdio::Auto, hide_possible_values = true)]
    pub(crate) stdio: Stdio,
    /// What to do about control groups: soft (go back to those that the program was in; make those that are gone, as they
    /// were), full (set up those that are there as well), strict (none may be there), props and none (all must be there,
    /// to be set up or left alone), ignore (stay where the restorer is). Groups that the program shared with cryopod at
    /// the checkpoint are the restorer's
    #[arg(long, value_name = "HOW", default_value_t)]
    pub(crate) manage_cgroups: ManageCgroups,
    /// Put the program's groups below PATH, in one hierarchy ("memory", "name=systemd") or in all
    #[arg(long, value_name = "[HIERARCHY:]PATH")]
    pub(crate) cgroup_root: Vec<CgroupRoot>,
    /// Bring TCP connections back, and let their packets through again
    #[arg(long, conflicts_with = "tcp_close")]
    pub(crate) tcp_established: bool,
    /// Bring sockets that had a TCP connection back closed
    #[arg(long)]
    pub(crate) tcp_close: bool,
}

/// `1048576`, `1024K`, `1M`, `1G`.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units.iter().find_map(|(unit, shift)| {
        Some((
            text.strip_suffix([*unit, unit.to_ascii_lowercase()])?,
            *shift,
        ))
    });
    let (digits, shift) = unit.unwrap_or((text, 0));
    let number: Option<u64> = digits.parse().ok();
    let size = number.and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "a size is a number, with K, M or G behind it or without".to_owned())
}

/// How programs and libraries are known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileValidation {
    /// By their build id as well.
    BuildId,
    /// By size and mode.
    Size,
}

/// What becomes of standard streams.
/// How long a program stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum FreezeMode {
    /// Live where there is room for copies, otherwise stop
    #[default]
    Auto,
    /// Until its processes are copied
    Live,
    /// Until all its memory is read
    Stop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stdio {
    #[default]
    Auto,
    Keep,
    Null,
    Inherit,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Run {
    /// Leave the program to itself once it runs
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Write the pid of the program to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Demo {
    /// How much memory the programs fill
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub(crate) memory_mib: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("12"), Ok(12));
        assert_eq!(parse_size("3k"), Ok(3 << 10));
        assert_eq!(parse_size("5G"), Ok(5 << 30));
        for bad in ["", "M", "1T", "-1", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    /// The help for one command, or for all of it, as on a terminal of a hundred columns.
    fn help(name: &str) -> String {
        let mut command = Args::command().term_width(100);
        command.build();
        let text = match command.find_subcommand_mut(name) {
            Some(sub) => sub.render_long_help(),
            None => command.render_long_help(),
        };
        text.to_string()
    }

    #[test]
    fn the_help_teaches() {
        let mut all = String::new();
        for name in [
            "",
            "checkpoint",
            "restore",
            "ls",
            "inspect",
            "rm",
            "track",
            "untrack",
            "doctor",
            "run",
            "criu",
            "demo",
        ] {
            all.push_str(&format!("$ cryopod {name} --help\n"));
            // clap leaves blanks at the ends of lines, editors do not.
            all.extend(help(name).lines().flat_map(|line| [line.trim_end(), "\n"]));
            all.push('\n');
        }
        insta::assert_snapshot!("help", all);
    }
}
