//! Every option of criu's, and what becomes of it here.
//!
//! An option that only permits something, or that cannot make a difference to what cryopod does, is accepted. One that
//! would change the outcome and is not there is refused: nothing is worse than a checkpoint that silently lacks what
//! was asked for.

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is a switch; `--no-NAME` turns it off.
    None,
    /// `--name value` or `--name=value`.
    Required,
    /// `--name` or `--name=value`.
    Optional,
}

/// What an option sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Tree,
    ImagesDir,
    WorkDir,
    LogFile,
    Verbosity,
    Detached,
    PidFile,
    LeaveRunning,
    LeaveStopped,
    ShellJob,
    GhostLimit,
    FileLocks,
    LinkRemap,
    ForceIrmap,
    IrmapScanPath,
    TrackMem,
    PrevImagesDir,
    /// `--ext-unix-sk`.
    ExternalUnixSockets,
    TcpEstablished,
    TcpClose,
    SkipInFlight,
    NetworkLock,
    DisplayStats,
    ActionScript,
    StatusFd,
    Feature,
    ManageCgroups,
    CgroupRoot,
    CgroupYard,
    CpuCap,
    FileValidation,
    Help,
    Version,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does what it does in criu.
    Supported(Setting),
    /// It is taken and changes nothing, because...
    Accepted(&'static str),
    /// It is refused, because...
    Refused(&'static str),
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opt {
    /// Its name behind `--`.
    pub(super) long: &'static str,
    /// Its letter behind `-`.
    pub(super) short: Option<char>,
    /// Whether it has a value.
    pub(super) value: Value,
    /// What becomes of it.
    pub(super) verdict: Verdict,
}

const fn supported(long: &'static str, short: char, value: Value, setting: Setting) -> Opt {
    let short = if short == ' ' { None } else { Some(short) };
    Opt {
        long,
        short,
        value,
        verdict: Verdict::Supported(setting),
    }
}

const fn accepted(long: &'static str, short: char, value: Value, because: &'static str) -> Opt {
    let short = if short == ' ' { None } else { Some(short) };
    Opt {
        long,
        short,
        value,
        verdict: Verdict::Accepted(because),
    }
}

const fn refused(long: &'static str, short: char, value: Value, because: &'static str) -> Opt {
    let short = if short == ' ' { None } else { Some(short) };
    Opt {
        long,
        short,
        value,
        verdict: Verdict::Refused(because),
    }
}

const PERMITS: &str = "it permits something; what is not supported is refused when it is found";
const MOUNTS: &str = "it is about mount namespaces, and trees with their own are refused";
const NO_REMOTE: &str = "pages cannot be sent over a network yet";
const CGROUP_PROPS: &str =
    "which settings of cgroups are kept is built in: there are more of them than of criu's";
const NO_NAMESPACES: &str = "namespaces are not restored yet";
const NO_EXTERNAL: &str = "external resources are not there yet";

use Setting as S;
use Value::{None as Switch, Optional, Required};

/// Every option of criu 4.1.1, by what it is about.
pub(super) const OPTIONS: &[Opt] = &[
    // What, where and how.
    supported("tree", 't', Required, S::Tree),
    supported("images-dir", 'D', Required, S::ImagesDir),
    supported("work-dir", 'W', Required, S::WorkDir),
    supported("log-file", 'o', Required, S::LogFile),
    supported("verbosity", 'v', Optional, S::Verbosity),
    supported("pidfile", ' ', Required, S::PidFile),
    supported("display-stats", ' ', Switch, S::DisplayStats),
    supported("action-script", ' ', Required, S::ActionScript),
    supported("status-fd", ' ', Required, S::StatusFd),
    supported("help", 'h', Switch, S::Help),
    supported("version", 'V', Switch, S::Version),
    accepted(
        "default-config",
        ' ',
        Switch,
        "no configuration file is read by default",
    ),
    refused(
        "config",
        ' ',
        Required,
        "configuration files are not read: give the options themselves",
    ),
    accepted(
        "log-pid",
        ' ',
        Switch,
        "there is one log: no part of a restore runs in other processes",
    ),
    accepted(
        "unprivileged",
        ' ',
        Switch,
        "what a missing privilege prevents is an error where it matters",
    ),
    accepted("deprecated", ' ', Switch, PERMITS),
    refused("libdir", 'L', Required, "there are no plugins"),
    accepted(
        "close",
        ' ',
        Required,
        "descriptors of the caller do not reach restored processes",
    ),
    // Dump.
    supported("leave-running", 'R', Switch, S::LeaveRunning),
    supported("leave-stopped", 's', Switch, S::LeaveStopped),
    supported("ghost-limit", ' ', Required, S::GhostLimit),
    accepted(
        "timeout",
        ' ',
        Required,
        "a task that does not stop within 10 seconds is an error in any case",
    ),
    accepted(
        "freeze-cgroup",
        ' ',
        Required,
        "trees are stopped by ptrace, which has the same outcome",
    ),
    supported("track-mem", ' ', Switch, S::TrackMem),
    supported("prev-images-dir", ' ', Required, S::PrevImagesDir),
    accepted(
        "pre-dump-mode",
        ' ',
        Required,
        "it chooses between two ways to the same images",
    ),
    refused("auto-dedup", ' ', Switch, "images are kept as they are"),
    accepted(
        "ghost-fiemap",
        ' ',
        Switch,
        "it chooses between two ways to the same images",
    ),
    supported("force-irmap", ' ', Switch, S::ForceIrmap),
    supported("irmap-scan-path", ' ', Required, S::IrmapScanPath),
    supported("link-remap", ' ', Switch, S::LinkRemap),
    accepted("evasive-devices", ' ', Switch, PERMITS),
    supported("file-locks", 'l', Switch, S::FileLocks),
    accepted("allow-uprobes", ' ', Switch, PERMITS),
    supported("ext-unix-sk", ' ', Optional, S::ExternalUnixSockets),
    supported("tcp-established", ' ', Switch, S::TcpEstablished),
    supported("tcp-close", ' ', Switch, S::TcpClose),
    supported("skip-in-flight", ' ', Switch, S::SkipInFlight),
    supported("network-lock", ' ', Required, S::NetworkLock),
    // Restore.
    supported("restore-detached", 'd', Switch, S::Detached),
    refused(
        "restore-sibling",
        'S',
        Switch,
        "the tree is restored as a child of the restorer, and is handed to init when that has ended",
    ),
    refused(
        "exec-cmd",
        ' ',
        Switch,
        "no command is run in the place of the restorer",
    ),
    refused("inherit-fd", ' ', Required, NO_EXTERNAL),
    supported("file-validation", ' ', Required, S::FileValidation),
    refused(
        "skip-file-rwx-check",
        ' ',
        Switch,
        "a file whose permissions changed cannot be opened as it was",
    ),
    accepted(
        "weak-sysctls",
        ' ',
        Switch,
        "sysctls belong to namespaces, and trees with their own are refused",
    ),
    refused(
        "lsm-profile",
        ' ',
        Required,
        "profiles of security modules are not restored yet",
    ),
    refused("lsm-mount-context", ' ', Required, NO_NAMESPACES),
    accepted("mntns-compat-mode", ' ', Switch, MOUNTS),
    // Both.
    supported("shell-job", 'j', Switch, S::ShellJob),
    supported("cpu-cap", ' ', Optional, S::CpuCap),
    supported("manage-cgroups", ' ', Optional, S::ManageCgroups),
    supported("cgroup-root", ' ', Required, S::CgroupRoot),
    refused("cgroup-props", ' ', Required, CGROUP_PROPS),
    refused("cgroup-props-file", ' ', Required, CGROUP_PROPS),
    refused("cgroup-dump-controller", ' ', Required, CGROUP_PROPS),
    supported("cgroup-yard", ' ', Required, S::CgroupYard),
    refused("external", ' ', Required, NO_EXTERNAL),
    refused("root", 'r', Required, NO_NAMESPACES),
    refused("join-ns", 'J', Required, NO_NAMESPACES),
    refused("empty-ns", ' ', Required, NO_NAMESPACES),
    refused("veth-pair", ' ', Required, NO_NAMESPACES),
    accepted("enable-fs", ' ', Required, MOUNTS),
    accepted("ext-mount-map", ' ', Required, MOUNTS),
    accepted("enable-external-sharing", ' ', Switch, MOUNTS),
    accepted("enable-external-masters", ' ', Switch, MOUNTS),
    accepted("skip-mnt", ' ', Required, MOUNTS),
    // Pages over a network.
    refused("stream", ' ', Switch, NO_REMOTE),
    refused("page-server", ' ', Switch, NO_REMOTE),
    refused("lazy-pages", ' ', Switch, NO_REMOTE),
    refused("address", ' ', Required, NO_REMOTE),
    refused("port", ' ', Required, NO_REMOTE),
    refused("ps-socket", ' ', Required, NO_REMOTE),
    refused("daemon", ' ', Switch, NO_REMOTE),
    refused("tls", ' ', Switch, NO_REMOTE),
    refused("tls-no-cn-verify", ' ', Switch, NO_REMOTE),
    refused("tls-cacert", ' ', Required, NO_REMOTE),
    refused("tls-cacrl", ' ', Required, NO_REMOTE),
    refused("tls-cert", ' ', Required, NO_REMOTE),
    refused("tls-key", ' ', Required, NO_REMOTE),
    // Check.
    supported("feature", ' ', Required, S::Feature),
    accepted(
        "extra",
        ' ',
        Switch,
        "what only some programs need is told by `cryopod doctor`",
    ),
    accepted(
        "experimental",
        ' ',
        Switch,
        "nothing experimental is needed",
    ),
    accepted(
        "all",
        ' ',
        Switch,
        "what only some programs need is told by `cryopod doctor`",
    ),
    accepted("ms", ' ', Switch, "nothing that it left out is checked"),
];

/// What `criu --help` says.
pub(super) fn help() -> String {
    let mut text = String::from(
        "criu's command line, spoken by cryopod.\n\n\
         Usage:\n  \
           criu dump -t PID [-D DIR] [OPTIONS]     write the tree of PID to a directory of images, and end it\n  \
           criu pre-dump -t PID [-D DIR]           write its memory for a later dump to build on, and let it go on\n  \
           criu restore [-d] [-D DIR] [OPTIONS]    bring it back from there\n  \
           criu check [--feature NAME]             tell whether this machine can do that\n  \
           criu --version\n\nOptions that do what they do in criu:\n",
    );
    let name = |option: &Opt| match option.short {
        Some(short) => format!("-{short}, --{}", option.long),
        None => format!("    --{}", option.long),
    };
    for option in OPTIONS
        .iter()
        .filter(|option| matches!(option.verdict, Verdict::Supported(_)))
    {
        text.push_str(&format!("  {}\n", name(option)));
    }
    text.push_str("\nOptions that are accepted and change nothing:\n");
    for option in OPTIONS {
        if let Verdict::Accepted(because) = option.verdict {
            text.push_str(&format!("  {:<28} {because}\n", name(option)));
        }
    }
    text.push_str("\nOptions that are refused:\n");
    for option in OPTIONS {
        if let Verdict::Refused(because) = option.verdict {
            text.push_str(&format!("  {:<28} {because}\n", name(option)));
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_there_twice() {
        for (index, one) in OPTIONS.iter().enumerate() {
            for other in &OPTIONS[index + 1..] {
                assert_ne!(one.long, other.long);
                assert!(
                    one.short.is_none() || one.short != other.short,
                    "{} {}",
                    one.long,
                    other.long
                );
            }
        }
    }

    #[test]
    fn the_help_names_every_option() {
        let help = help();
        for option in OPTIONS {
            assert!(
                help.contains(&format!("--{}", option.long)),
                "{}",
                option.long
            );
        }
    }
}
