//! What a command line means: names checked, targets understood, defaults settled.

use std::ffi::OsString;
use std::path::PathBuf;

use cryopod::{
    CgroupOptions, CheckpointOptions, Connections, FileValidation, Freeze, Incremental, Label,
    NetworkLock, Ref, RestoreOptions, Target, TcpOptions,
};

use crate::args::{self, Command, FreezeMode};
use crate::failure::Failure;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Request {
    /// Checkpoint a target.
    Checkpoint {
        target: Target,
        options: CheckpointOptions,
    },
    /// Restore a tree.
    Restore(Restore),
    /// List checkpoints.
    List { label: Option<Label> },
    /// Show a checkpoint.
    Inspect { reference: Ref, descriptors: bool },
    /// Remove checkpoints.
    Remove { references: Vec<Ref>, merge: bool },
    /// Follow what a target writes to.
    Track { target: Target },
    /// End that.
    Untrack { target: Target },
    /// Examine the machine.
    Doctor,
    /// Start a program.
    Run {
        command: Vec<OsString>,
        parent: Parent,
    },
    /// criu's command line.
    Criu { arguments: Vec<OsString> },
    /// The demonstration.
    Demo { memory_bytes: u64 },
    /// Man pages and completions.
    Generate { dir: PathBuf },
}

/// A restore.
#[derive(Debug)]
pub(crate) struct Restore {
    /// What.
    pub(crate) source: Source,
    /// How.
    pub(crate) options: RestoreOptions,
    /// Who looks after it then.
    pub(crate) parent: Parent,
}

/// Where a tree is restored from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A checkpoint in the store.
    Store(Ref),
    /// A directory of images.
    Dir(PathBuf),
}

/// Whether cryopod stays the parent of a program, and who else is told its pid.
#[derive(Debug, Default)]
pub(crate) struct Parent {
    /// Whether the program is left to itself.
    pub(crate) detach: bool,
    /// Where its pid is to be written.
    pub(crate) pidfile: Option<PathBuf>,
}

/// Works out what a command means.
pub(crate) fn understand(command: Command) -> Result<Request, Failure> {
    Ok(match command {
        Command::Checkpoint(typed) => checkpoint(typed)?,
        Command::Restore(typed) => Request::Restore(restore(typed)?),
        Command::Ls { label } => Request::List {
            label: label.as_deref().map(parse_label).transpose()?,
        },
        Command::Inspect {
            reference,
            descriptors,
        } => Request::Inspect {
            reference: parse_ref(&reference)?,
            descriptors,
        },
        Command::Rm { references, merge } => {
            let references: Result<_, Failure> =
                references.iter().map(|text| parse_ref(text)).collect();
            Request::Remove {
                references: references?,
                merge,
            }
        }
        Command::Track { target } => Request::Track {
            target: target.parse()?,
        },
        Command::Untrack { target } => Request::Untrack {
            target: target.parse()?,
        },
        Command::Doctor => Request::Doctor,
        Command::Run(typed) => {
            let parent = Parent {
                detach: typed.detach,
                pidfile: typed.pidfile,
            };
            Request::Run {
                command: typed.command,
                parent,
            }
        }
        Command::Criu { arguments } => Request::Criu { arguments },
        Command::Demo(typed) => Request::Demo {
            memory_bytes: typed.memory_mib << 20,
        },
        Command::Generate { dir } => Request::Generate { dir },
    })
}

fn checkpoint(typed: args::Checkpoint) -> Result<Request, Failure> {
    let target = typed.target.parse()?;
    let reference = typed.reference.as_deref().map(parse_ref).transpose()?;
    let (label, name) = reference.map_or((None, None), |reference| {
        (Some(reference.label), reference.name)
    });
    let options = CheckpointOptions {
        stop: typed.stop,
        shell_job: typed.shell_job,
        replace: typed.replace,
        file_locks: typed.file_locks,
        link_remap: typed.link_remap,
        ghost_limit_bytes: Some(typed.ghost_limit),
        irmap_scan_paths: typed.irmap_scan_paths,
        force_irmap: typed.force_irmap,
        freeze: match typed.freeze {
            FreezeMode::Auto => Freeze::Auto,
            FreezeMode::Live => Freeze::Live,
            FreezeMode::Stop => Freeze::Stop,
        },
        jobs: typed.jobs,
        tcp: TcpOptions {
            connections: connections(typed.tcp_established, typed.tcp_close),
            lock: match typed.network_lock {
                args::NetworkLock::Nftables => NetworkLock::Nftables,
                args::NetworkLock::Skip => NetworkLock::Skip,
            },
            skip_in_flight: typed.skip_in_flight,
            ends: typed.stop,
        },
        label,
        name,
        external_unix_sockets: typed.ext_unix_sk,
        incremental: match typed.parent {
            Some(parent) => Incremental::On(parse_ref(&parent)?),
            None if typed.incremental => Incremental::Newest,
            None => Incremental::No,
        },
    };
    Ok(Request::Checkpoint { target, options })
}

fn restore(typed: args::Restore) -> Result<Restore, Failure> {
    let source = match (typed.dir, typed.reference) {
        (Some(dir), _) => Source::Dir(dir),
        (None, reference) => Source::Store(parse_ref(&reference.unwrap_or_default())?),
    };
    let stdio = match typed.stdio {
        args::Stdio::Auto => cryopod::Stdio::Auto,
        args::Stdio::Keep => cryopod::Stdio::Keep,
        args::Stdio::Null => cryopod::Stdio::Null,
        args::Stdio::Inherit => cryopod::Stdio::Inherit,
    };
    let options = RestoreOptions {
        stdio,
        force_files: typed.force_files,
        file_validation: match typed.file_validation {
            args::FileValidation::BuildId => FileValidation::BuildId,
            args::FileValidation::Size => FileValidation::Size,
        },
        cgroups: CgroupOptions {
            manage: typed.manage_cgroups,
            roots: typed.cgroup_root,
            ..CgroupOptions::default()
        },
        connections: connections(typed.tcp_established, typed.tcp_close),
        lazy: typed.lazy,
        jobs: typed.jobs,
        ..RestoreOptions::default()
    };
    Ok(Restore {
        source,
        options,
        parent: Parent {
            detach: typed.detach,
            pidfile: typed.pidfile,
        },
    })
}

/// What becomes of TCP connections.
pub(crate) fn connections(keep: bool, close: bool) -> Connections {
    match (keep, close) {
        (_, true) => Connections::Close,
        (true, false) => Connections::Keep,
        (false, false) => Connections::Refuse,
    }
}

fn parse_ref(text: &str) -> Result<Ref, Failure> {
    Ok(Ref::parse(text).map_err(cryopod::Error::from)?)
}

fn parse_label(text: &str) -> Result<Label, Failure> {
    Ok(Label::parse(text).map_err(cryopod::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser;
    use cryopod::ErrorKind;

    fn read(line: &str) -> Result<Request, Failure> {
        let args = Args::try_parse_from(line.split_whitespace()).expect("clap takes it");
        understand(args.command)
    }

    #[track_caller]
    fn refused(line: &str, kind: ErrorKind) {
        assert_eq!(read(line).unwrap_err().kind(), kind, "{line}");
    }

    #[test]
    fn a_checkpoint_has_a_target_and_perhaps_a_name() {
        let Request::Checkpoint { target, options } =
            read("cryopod checkpoint pid:41 web:v1 --stop").unwrap()
        else {
            panic!("not a checkpoint");
        };
        assert_eq!(target, Target::Process(41));
        assert_eq!(options.label.unwrap().as_str(), "web");
        assert_eq!(options.name.unwrap().as_str(), "v1");
        assert!(options.stop && !options.replace);
        let Request::Checkpoint { options, .. } = read("cryopod checkpoint 41").unwrap() else {
            panic!("not a checkpoint");
        };
        assert!(options.label.is_none() && options.name.is_none() && !options.stop);
    }

    #[test]
    fn a_restore_is_from_a_store_or_a_directory() {
        let Request::Restore(restore) = read("cryopod restore web -d --stdio null").unwrap() else {
            panic!("not a restore");
        };
        assert!(matches!(restore.source, Source::Store(reference) if reference.name.is_none()));
        assert_eq!(restore.options.stdio, cryopod::Stdio::Null);
        assert!(restore.parent.detach);
        let Request::Restore(restore) = read("cryopod restore --dir /x --pidfile y").unwrap()
        else {
            panic!("not a restore");
        };
        assert!(matches!(restore.source, Source::Dir(_)));
        assert!(Args::try_parse_from(["cryopod", "restore"]).is_err());
        assert!(Args::try_parse_from(["cryopod", "restore", "web", "--dir", "/x"]).is_err());
    }

    #[test]
    fn bad_names_and_targets_are_refused() {
        refused("cryopod checkpoint web", ErrorKind::InvalidInput);
        refused("cryopod checkpoint docker:web", ErrorKind::Unsupported);
        refused("cryopod checkpoint 41 a/b", ErrorKind::InvalidInput);
        refused("cryopod restore web:", ErrorKind::InvalidInput);
        refused("cryopod ls -- -x", ErrorKind::InvalidInput);
        refused("cryopod rm web ../etc", ErrorKind::InvalidInput);
    }

    #[test]
    fn a_program_is_behind_two_dashes() {
        let Request::Run { command, parent } = read("cryopod run -d -- ls -l --json").unwrap()
        else {
            panic!("not a run");
        };
        assert_eq!(command, ["ls", "-l", "--json"]);
        assert!(parent.detach);
        assert!(Args::try_parse_from(["cryopod", "run"]).is_err());
    }
}
