//! From criu's arguments to what they mean, read the way getopt_long(3) reads them: options anywhere, values attached
//! or behind, switches negated with `--no-`, long names abbreviated where that is unambiguous.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cryopod::{
    Afterwards, CgroupOptions, Connections, FileValidation, NetworkLock, Target, TcpOptions,
};

use crate::request;

use super::options::{OPTIONS, Opt, Setting, Value, Verdict};

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Command {
    Dump,
    PreDump,
    Restore,
    Check,
    Version,
    #[default]
    Help,
}

/// A command line, understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) command: Command,
    pub(super) tree: Option<i32>,
    /// Where the images are.
    pub(super) images_dir: PathBuf,
    work_dir: Option<PathBuf>,
    log_file: Option<PathBuf>,
    /// 0 nothing, 1 errors, 2 warnings, 3 information, 4 debugging.
    pub(super) verbosity: u8,
    pub(super) detached: bool,
    pidfile: Option<PathBuf>,
    pub(super) afterwards: Afterwards,
    pub(super) leave_stopped: bool,
    pub(super) shell_job: bool,
    pub(super) ghost_limit_bytes: Option<u64>,
    pub(super) file_locks: bool,
    pub(super) link_remap: bool,
    pub(super) force_irmap: bool,
    pub(super) track_mem: bool,
    pub(super) prev_images_dir: Option<PathBuf>,
    pub(super) irmap_scan_paths: Vec<PathBuf>,
    /// `--ext-unix-sk`, of all sockets.
    pub(super) external_unix_sockets: bool,
    tcp_established: bool,
    tcp_close: bool,
    /// All but what becomes of connections.
    tcp: TcpOptions,
    pub(super) file_validation: FileValidation,
    pub(super) display_stats: bool,
    pub(super) scripts: Vec<OsString>,
    pub(super) status_fd: Option<u32>,
    pub(super) features: Vec<String>,
    /// Control groups.
    cgroups: CgroupOptions,
    /// Options that change nothing, and why.
    pub(super) accepted: Vec<(String, &'static str)>,
    /// Options that cannot be followed, as sentences.
    pub(super) refused: Vec<String>,
}

impl Settings {
    /// Where logs, statistics and pidfiles go.
    pub(super) fn work_dir(&self) -> &Path {
        self.work_dir.as_deref().unwrap_or(&self.images_dir)
    }

    /// How control groups are treated. criu works where its images are, so that is where paths begin.
    pub(super) fn cgroups(&self) -> CgroupOptions {
        let mut options = self.cgroups.clone();
        options.yard = options.yard.map(|yard| self.work_dir().join(yard));
        options
    }

    /// The log file, where one was asked for.
    pub(super) fn log_file(&self) -> Option<PathBuf> {
        self.log_file
            .as_ref()
            .map(|file| self.work_dir().join(file))
    }

    /// The pidfile, where one was asked for.
    pub(super) fn pidfile(&self) -> Option<PathBuf> {
        self.pidfile.as_ref().map(|file| self.work_dir().join(file))
    }

    /// What becomes of TCP connections.
    pub(super) fn connections(&self) -> Connections {
        request::connections(self.tcp_established, self.tcp_close)
    }

    /// How TCP sockets are dumped.
    pub(super) fn tcp(&self) -> TcpOptions {
        TcpOptions {
            connections: self.connections(),
            ..self.tcp
        }
    }

    /// The tree to dump.
    pub(super) fn target(&self) -> Result<Target, UsageError> {
        self.tree.map(Target::Process).ok_or(UsageError::NoTree)
    }
}

/// A command line that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("command {0:?} is not there; dump, pre-dump, restore and check are")]
    UnsupportedCommand(String),
    #[error("there is no command {0:?}")]
    UnknownCommand(String),
    #[error("there is no command on the command line")]
    NoCommand,
    #[error("{0:?} is one argument too many")]
    ExcessArgument(String),
    #[error("there is no option {0}")]
    UnknownOption(String),
    #[error("option {option} is ambiguous: {candidates}")]
    AmbiguousOption { option: String, candidates: String },
    #[error("option {0} needs a value")]
    NoValue(String),
    #[error("option {0} has no value")]
    ExcessValue(String),
    #[error("option {option}: {value:?} is not {wanted}")]
    BadValue {
        option: String,
        value: String,
        wanted: &'static str,
    },
    #[error("option -t PID is missing: what is to be dumped")]
    NoTree,
}

/// Commands of criu's that are not there.
const UNSUPPORTED_COMMANDS: &[&str] = &[
    "page-server",
    "lazy-pages",
    "service",
    "swrk",
    "dedup",
    "cpuinfo",
    "exec",
    "show",
    "image-streamer",
];

/// Reads a command line; `arguments` are those behind the name of the program.
pub(super) fn parse(arguments: Vec<OsString>) -> Result<Settings, UsageError> {
    let mut rest = VecDeque::from(arguments);
    let mut settings = Settings {
        images_dir: PathBuf::from("."),
        verbosity: DEFAULT_VERBOSITY,
        ..Settings::default()
    };
    let mut command = None;
    while let Some(argument) = rest.pop_front() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            break;
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            parse_long(&mut settings, &mut command, long, &mut rest)?;
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            parse_short(&mut settings, &mut command, &bytes[1..], &mut rest)?;
        } else if command.is_none() {
            command = Some(parse_command(&argument.to_string_lossy())?);
        } else {
            return Err(UsageError::ExcessArgument(
                argument.to_string_lossy().into_owned(),
            ));
        }
    }
    settings.command = command.ok_or(UsageError::NoCommand)?;
    Ok(settings)
}

/// Errors and warnings.
const DEFAULT_VERBOSITY: u8 = 2;

fn parse_command(text: &str) -> Result<Command, UsageError> {
    match text {
        "dump" => Ok(Command::Dump),
        "pre-dump" => Ok(Command::PreDump),
        "restore" => Ok(Command::Restore),
        "check" => Ok(Command::Check),
        _ if UNSUPPORTED_COMMANDS.contains(&text) => {
            Err(UsageError::UnsupportedCommand(text.to_owned()))
        }
        _ => Err(UsageError::UnknownCommand(text.to_owned())),
    }
}

/// `--name`, `--name=value`, `--name value`, `--no-name`.
fn parse_long(
    settings: &mut Settings,
    command: &mut Option<Command>,
    argument: &[u8],
    rest: &mut VecDeque<OsString>,
) -> Result<(), UsageError> {
    let equals = argument.iter().position(|byte| *byte == b'=');
    let (name, attached) = match equals {
        Some(at) => (
            &argument[..at],
            Some(OsString::from_vec(argument[at + 1..].to_vec())),
        ),
        None => (argument, None),
    };
    let name = String::from_utf8_lossy(name).into_owned();
    let (option, on) = find_long(&name)?;
    let shown = format!("--{name}");
    let value = match (option.value, attached) {
        (Value::None, Some(_)) => return Err(UsageError::ExcessValue(shown)),
        (Value::Required, None) => Some(
            rest.pop_front()
                .ok_or_else(|| UsageError::NoValue(shown.clone()))?,
        ),
        (_, attached) => attached,
    };
    apply(settings, command, option, &shown, on, value)
}

/// The option of this name, or of the one name that begins like this; and whether it is on.
fn find_long(name: &str) -> Result<(&'static Opt, bool), UsageError> {
    let exact = |name: &str| OPTIONS.iter().find(|option| option.long == name);
    if let Some(option) = exact(name) {
        return Ok((option, true));
    }
    if let Some(option) = name.strip_prefix("no-").and_then(exact)
        && option.value == Value::None
    {
        return Ok((option, false));
    }
    let candidates: Vec<&Opt> = OPTIONS
        .iter()
        .filter(|option| !name.is_empty() && option.long.starts_with(name))
        .collect();
    match candidates[..] {
        [] => Err(UsageError::UnknownOption(format!("--{name}"))),
        [option] => Ok((option, true)),
        _ => Err(UsageError::AmbiguousOption {
            option: format!("--{name}"),
            candidates: candidates
                .iter()
                .map(|option| option.long)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// `-d`, `-dj`, `-t1`, `-t 1`, `-v4`, `-vvv`.
fn parse_short(
    settings: &mut Settings,
    command: &mut Option<Command>,
    letters: &[u8],
    rest: &mut VecDeque<OsString>,
) -> Result<(), UsageError> {
    let mut at = 0;
    while at < letters.len() {
        let letter = char::from(letters[at]);
        let shown = format!("-{letter}");
        let option = OPTIONS
            .iter()
            .find(|option| option.short == Some(letter))
            .ok_or_else(|| UsageError::UnknownOption(shown.clone()))?;
        let attached = &letters[at + 1..];
        let value = match option.value {
            Value::None => {
                apply(settings, command, option, &shown, true, None)?;
                at += 1;
                continue;
            }
            _ if !attached.is_empty() => Some(OsStr::from_bytes(attached).to_owned()),
            Value::Optional => None,
            Value::Required => Some(
                rest.pop_front()
                    .ok_or_else(|| UsageError::NoValue(shown.clone()))?,
            ),
        };
        return apply(settings, command, option, &shown, true, value);
    }
    Ok(())
}

/// Takes one option into account.
fn apply(
    settings: &mut Settings,
    command: &mut Option<Command>,
    option: &Opt,
    shown: &str,
    on: bool,
    value: Option<OsString>,
) -> Result<(), UsageError> {
    let setting = match option.verdict {
        Verdict::Accepted(why) => {
            settings.accepted.push((shown.to_owned(), why));
            return Ok(());
        }
        // Turning off what is not there is no request for it.
        Verdict::Refused(_) if !on => return Ok(()),
        Verdict::Refused(why) => {
            settings
                .refused
                .push(format!("option {shown} is not supported: {why}"));
            return Ok(());
        }
        Verdict::Supported(setting) => setting,
    };
    let path = || PathBuf::from(value.clone().unwrap_or_default());
    let text = value
        .as_ref()
        .map(|value| value.to_string_lossy().into_owned());
    let given = text.as_deref().unwrap_or_default();
    match setting {
        Setting::Help => *command = Some(Command::Help),
        Setting::Version => *command = Some(Command::Version),
        Setting::Tree => settings.tree = Some(parse_value(shown, given, "a process id")?),
        Setting::ImagesDir => settings.images_dir = path(),
        Setting::WorkDir => settings.work_dir = Some(path()),
        Setting::LogFile => settings.log_file = Some(path()),
        Setting::Verbosity => {
            settings.verbosity = parse_verbosity(settings.verbosity, text.as_deref())
        }
        Setting::Detached => settings.detached = on,
        Setting::PidFile => settings.pidfile = Some(path()),
        Setting::LeaveRunning => {
            settings.afterwards = if on {
                Afterwards::Run
            } else {
                Afterwards::Kill
            }
        }
        Setting::LeaveStopped => {
            settings.leave_stopped = on;
            settings.afterwards = if on {
                Afterwards::Stop
            } else {
                Afterwards::Kill
            };
        }
        Setting::ShellJob => settings.shell_job = on,
        Setting::GhostLimit => settings.ghost_limit_bytes = Some(parse_size(shown, given)?),
        Setting::FileLocks => settings.file_locks = on,
        Setting::LinkRemap => settings.link_remap = on,
        Setting::ForceIrmap => settings.force_irmap = on,
        Setting::TrackMem => settings.track_mem = on,
        Setting::PrevImagesDir => settings.prev_images_dir = Some(path()),
        Setting::IrmapScanPath => settings.irmap_scan_paths.push(path()),
        // As with criu, a list does not narrow it down. What it allows beyond datagrams to an address (streams that are
        // given to the restore with --inherit-fd) is refused by name.
        Setting::ExternalUnixSockets => {
            let is_inode =
                |one: &str| one.is_empty() || one.parse::<u32>().is_ok_and(|ino| ino != 0);
            if !given.split(',').all(is_inode) {
                return Err(UsageError::BadValue {
                    option: shown.to_owned(),
                    value: given.to_owned(),
                    wanted: "nothing, or inode numbers of sockets with commas between them",
                });
            }
            settings.external_unix_sockets = on;
        }
        Setting::TcpEstablished => settings.tcp_established = on,
        Setting::TcpClose => settings.tcp_close = on,
        Setting::SkipInFlight => settings.tcp.skip_in_flight = on,
        // What criu does with iptables is done with nf_tables here, to the same effect.
        Setting::NetworkLock => match given {
            "iptables" | "nftables" => settings.tcp.lock = NetworkLock::Nftables,
            "skip" => settings.tcp.lock = NetworkLock::Skip,
            _ => {
                return Err(UsageError::BadValue {
                    option: shown.to_owned(),
                    value: given.to_owned(),
                    wanted: "iptables, nftables or skip",
                });
            }
        },
        Setting::DisplayStats => settings.display_stats = on,
        Setting::ActionScript => settings.scripts.extend(value),
        Setting::StatusFd => settings.status_fd = Some(parse_value(shown, given, "a descriptor")?),
        Setting::Feature => settings.features.extend(text),
        Setting::ManageCgroups => {
            let mode = text.as_deref().unwrap_or("soft");
            let wanted = "one of ignore, none, props, soft, full, strict";
            settings.cgroups.manage = parse_value(shown, mode, wanted)?;
        }
        Setting::CgroupRoot => {
            let root = parse_value(shown, given, "[CONTROLLER:]/PATH")?;
            settings.cgroups.roots.push(root);
        }
        Setting::CgroupYard => settings.cgroups.yard = Some(path()),
        Setting::CpuCap => cpu_cap(settings, shown, text.as_deref()),
        Setting::FileValidation => match text.as_deref() {
            Some("filesize") => settings.file_validation = FileValidation::Size,
            Some("buildid") => settings.file_validation = FileValidation::BuildId,
            _ => {
                return Err(UsageError::BadValue {
                    option: shown.to_owned(),
                    value: given.to_owned(),
                    wanted: "filesize or buildid",
                });
            }
        },
    }
    Ok(())
}

fn parse_value<T: std::str::FromStr>(
    option: &str,
    value: &str,
    wanted: &'static str,
) -> Result<T, UsageError> {
    value.parse().map_err(|_| UsageError::BadValue {
        option: option.to_owned(),
        value: value.to_owned(),
        wanted,
    })
}

/// `-v` is one more than the default, `-vv` two; `-v4` and `--verbosity=4` are 4. What is no number counts as 0, as it
/// does for atoi(3): callers write `-verbosity=0`.
fn parse_verbosity(current: u8, value: Option<&str>) -> u8 {
    match value {
        None => current.saturating_add(1),
        Some(letters) if letters.bytes().all(|byte| byte == b'v') => {
            current.saturating_add(u8::try_from(letters.len() + 1).unwrap_or(u8::MAX))
        }
        Some(number) => {
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            number[..digits].parse().unwrap_or(0)
        }
    }
}

/// `1048576`, `1024K`, `1M`, `1G`.
fn parse_size(option: &str, value: &str) -> Result<u64, UsageError> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    let wanted = "a size such as 512K, 1M or 2G";
    let number: u64 = parse_value(option, digits, wanted)?;
    number
        .checked_mul(unit)
        .ok_or_else(|| UsageError::BadValue {
            option: option.to_owned(),
            value: value.to_owned(),
            wanted,
        })
}

/// Images of processor features are neither written nor read.
fn cpu_cap(settings: &mut Settings, shown: &str, capabilities: Option<&str>) {
    if capabilities != Some("none") {
        settings.refused.push(format!(
            "option {shown} is not supported: cpuinfo images are not there yet; --cpu-cap=none is"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod::ManageCgroups;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Settings, UsageError> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn the_test_suite_is_understood() {
        let settings = read(
            "dump --no-default-config --log-file dump.log --images-dir dump/zdtm/1 --verbosity=4 --tree 41 --timeout 10",
        )
        .unwrap();
        assert_eq!(
            (settings.command, settings.tree, settings.verbosity),
            (Command::Dump, Some(41), 4)
        );
        assert_eq!(
            settings.log_file().unwrap(),
            Path::new("dump/zdtm/1/dump.log")
        );
        assert_eq!(settings.afterwards, Afterwards::Kill);
        assert!(settings.refused.is_empty());
        let settings =
            read("restore --pidfile /a/b.pid -D x -W y --restore-detached -o r.log -v4").unwrap();
        assert_eq!(settings.pidfile().unwrap(), Path::new("/a/b.pid"));
        assert_eq!(settings.log_file().unwrap(), Path::new("y/r.log"));
        assert!(settings.detached);
        let settings =
            read("check --no-default-config -verbosity=0 --feature mem_dirty_track").unwrap();
        assert_eq!((settings.command, settings.verbosity), (Command::Check, 0));
        assert_eq!(settings.features, ["mem_dirty_track"]);
    }

    #[test]
    fn letters_stand_together_and_values_are_attached_or_behind() {
        let settings = read("-vvv dump -Rjt41 -D imgs").unwrap();
        assert_eq!((settings.verbosity, settings.tree), (5, Some(41)));
        assert_eq!(
            (settings.afterwards, settings.shell_job),
            (Afterwards::Run, true)
        );
        assert_eq!(settings.images_dir, Path::new("imgs"));
        assert_eq!(read("--version").unwrap().command, Command::Version);
        assert_eq!(read("-V").unwrap().command, Command::Version);
    }

    #[test]
    fn names_are_abbreviated_where_that_is_unambiguous() {
        assert_eq!(read("dump --tre 7").unwrap().tree, Some(7));
        assert!(matches!(
            read("dump --leave"),
            Err(UsageError::AmbiguousOption { .. })
        ));
        assert!(matches!(
            read("dump --leaves"),
            Err(UsageError::UnknownOption(_))
        ));
        assert!(
            !read("dump --leave-running --no-leave-running")
                .unwrap()
                .display_stats
        );
        assert!(matches!(
            read("dump --no-tree"),
            Err(UsageError::UnknownOption(_))
        ));
    }

    #[test]
    fn sizes_have_units() {
        let limit = |text: &str| {
            read(&format!("dump --ghost-limit {text}")).map(|settings| settings.ghost_limit_bytes)
        };
        assert_eq!(limit("1G"), Ok(Some(1 << 30)));
        assert_eq!(limit("512k"), Ok(Some(512 << 10)));
        assert_eq!(limit("77"), Ok(Some(77)));
        assert!(limit("99999999999999999999").is_err());
        assert!(limit("18446744073709551615G").is_err());
        assert!(limit("G").is_err());
    }

    #[track_caller]
    fn refuses(line: &str, reason: &str) {
        let refused = read(line).unwrap().refused;
        assert!(
            refused.iter().any(|why| why.contains(reason)),
            "{refused:?}"
        );
    }

    #[test]
    fn cgroups_are_managed_as_asked() {
        let cgroups = |line: &str| read(line).map(|settings| settings.cgroups());
        let manage = |line: &str| cgroups(line).map(|options| options.manage);
        assert_eq!(manage("restore"), Ok(ManageCgroups::Soft));
        assert_eq!(manage("restore --manage-cgroups"), Ok(ManageCgroups::Soft));
        assert_eq!(
            manage("restore --manage-cgroups=strict"),
            Ok(ManageCgroups::Strict)
        );
        assert!(manage("restore --manage-cgroups=hard").is_err());
        assert!(manage("restore --cgroup-root relative").is_err());
        let options = cgroups("dump -t1 -D /images --cgroup-yard ../yard --cgroup-root cpu:/x");
        let options = options.unwrap();
        assert_eq!(options.yard, Some(PathBuf::from("/images/../yard")));
        assert_eq!(options.roots.len(), 1);
    }

    #[test]
    fn what_would_change_the_outcome_is_refused() {
        refuses("restore --root /x", "namespaces");
        refuses("restore --cgroup-props x", "settings of cgroups");
        refuses("dump -t1 --lazy-pages", "network");
        refuses("restore --cpu-cap", "cpu-cap");
        refuses("restore -S", "child of the restorer");
        for fine in [
            "restore --manage-cgroups=ignore",
            "dump --manage-cgroups",
            "dump --no-lazy-pages",
            "restore --no-mntns-compat-mode",
            "dump --file-locks --tcp-established --link-remap --ext-unix-sk",
            "restore --cpu-cap=none --file-validation filesize",
            "dump -t1 --track-mem --prev-images-dir ../1",
        ] {
            assert!(read(fine).unwrap().refused.is_empty(), "{fine}");
        }
    }

    #[test]
    fn mistakes_are_told_apart() {
        assert!(matches!(read(""), Err(UsageError::NoCommand)));
        assert!(matches!(
            read("frobnicate"),
            Err(UsageError::UnknownCommand(_))
        ));
        assert!(matches!(
            read("page-server"),
            Err(UsageError::UnsupportedCommand(_))
        ));
        assert!(matches!(read("dump -t"), Err(UsageError::NoValue(_))));
        assert!(matches!(
            read("dump -t x"),
            Err(UsageError::BadValue { .. })
        ));
        assert!(matches!(
            read("dump --shell-job=1"),
            Err(UsageError::ExcessValue(_))
        ));
        assert!(matches!(read("dump -q"), Err(UsageError::UnknownOption(_))));
        assert!(matches!(
            read("dump restore"),
            Err(UsageError::ExcessArgument(_))
        ));
        assert!(matches!(
            read("dump").unwrap().target(),
            Err(UsageError::NoTree)
        ));
    }

    proptest! {
        #[test]
        fn no_arguments_panic(arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..6)) {
            let _ = parse(arguments.into_iter().map(OsString::from_vec).collect());
        }
    }
}
