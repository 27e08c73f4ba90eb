//! What this machine has and lacks for checkpoints and restores, and what each lack costs.
//!
//! Everything is probed, nothing is concluded from a distribution's name: files in /proc, a system call on this process
//! itself, the capabilities it has. Nothing is changed.

use std::fs;
use std::path::Path;

use cryopod_sys::process::{pidfd_getfd, pidfd_open};
use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is called.
    pub name: &'static str,
    /// Whether it is there.
    pub have: bool,
    /// Whether nothing works without it.
    pub needed: bool,
    /// What was found.
    pub detail: String,
    /// What its lack costs.
    pub cost: &'static str,
}

/// The result of an examination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// Whether everything is there that nothing works without.
    pub ready: bool,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

/// Looks at this machine, and at the directory of a store if one is given.
#[must_use]
pub fn examine(store: Option<&Path>) -> Examination {
    let mut checks = vec![
        kernel(),
        capability(
            "CAP_SYS_PTRACE",
            19,
            true,
            "no program can be stopped and read",
        ),
        checkpoint_capability(),
        capability(
            "CAP_SYS_ADMIN",
            21,
            false,
            "seccomp filters, other users' programs and memory behind /proc/PID/map_files cannot be handled",
        ),
        capability(
            "CAP_SYS_RESOURCE",
            24,
            false,
            "limits that were raised above their hard limit cannot be restored; everything else works",
        ),
        yama(),
        pidfd(),
        children(),
        map_files(),
        pagemap(),
        mem_writes(),
        rseq(),
        userfaultfd(),
        write_tracking(),
        cgroups(),
    ];
    checks.extend(store.map(free_space));
    Examination {
        ready: checks.iter().all(|check| check.have || !check.needed),
        checks,
    }
}

/// Finds out whether something is there.
pub type Probe = fn() -> bool;

/// Features by the names that criu gives them, and how to find out whether this machine has them.
pub const FEATURES: &[(&str, Probe)] = &[
    (
        "mem_dirty_track",
        cryopod_sys::userfaultfd::can_follow_writes,
    ),
    ("uffd", || userfaultfd().have),
    ("pagemap_scan", || pagemap().have),
    ("timerfd", || true),
    ("mnt_id", || true),
    ("fdinfo_lock", || true),
    ("kcmp_epoll", || kernel_at_least(4, 13)),
    ("get_rseq_conf", || rseq().have),
    ("memfd_hugetlb", || {
        Path::new("/sys/kernel/mm/hugepages").exists()
    }),
    ("aio_remap", || Path::new("/proc/sys/fs/aio-nr").exists()),
    ("ns_pid", || read("/proc/self/status").contains("NSpid:")),
    ("cgroupns", || Path::new("/proc/self/ns/cgroup").exists()),
    ("timens", || Path::new("/proc/self/ns/time").exists()),
    ("loginuid", || Path::new("/proc/self/loginuid").exists()),
    ("seccomp_filters", || seccomp_filters()),
    ("seccomp_suspend", || {
        seccomp_filters() && has_capability(21)
    }),
    ("clone3_set_tid", || checkpoint_capability().have),
    ("pidfd_getfd", || pidfd().have),
    ("sk_unix_file", || has_capability(CAP_NET_ADMIN)),
    ("sockopt_buf_lock", || kernel_at_least(5, 15)),
    ("pagemap_scan_guard_pages", || kernel_at_least(6, 15)),
    // Raw sockets are read without sock_diag(7).
    ("net_diag_raw", || true),
    ("ipv6_freebind", || true),
    ("tcp_half_closed", || has_capability(CAP_NET_ADMIN)),
    ("network_lock_nftables", || {
        cryopod_engine::net::lock::check().is_ok()
    }),
    ("has_ipt_legacy", iptables_legacy),
];

/// capabilities(7).
const CAP_NET_ADMIN: u32 = 12;

/// Whether iptables(8) is there as it was before nf_tables, which some of criu's own tests ask for.
fn iptables_legacy() -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join("iptables-legacy").exists())
}

/// Whether the feature that criu calls so is there; `None` for one that cryopod has no use for yet.
#[must_use]
pub fn has_feature(name: &str) -> Option<bool> {
    FEATURES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, probe)| probe())
}

fn kernel() -> Check {
    let release = read("/proc/sys/kernel/osrelease");
    Check {
        name: "kernel 6.7",
        have: kernel_at_least(6, 7),
        needed: true,
        detail: release,
        cost: "pages in use cannot be found fast (PAGEMAP_SCAN)",
    }
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    parse_release(&read("/proc/sys/kernel/osrelease")) >= Some((major, minor))
}

/// `6.18.44-foo` is `(6, 18)`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|found: char| !found.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether this process has the capability with that number in effect, capabilities(7).
fn has_capability(number: u32) -> bool {
    let status = read("/proc/self/status");
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap_or(0) & (1 << number) != 0
}

fn capability(name: &'static str, number: u32, needed: bool, cost: &'static str) -> Check {
    let have = has_capability(number);
    let detail = if have { "in effect" } else { "not in effect" }.to_owned();
    Check {
        name,
        have,
        needed,
        detail,
        cost,
    }
}

/// clone3(2) with set_tid, and /proc/PID/map_files.
fn checkpoint_capability() -> Check {
    let by = [(40, "CAP_CHECKPOINT_RESTORE"), (21, "CAP_SYS_ADMIN")];
    let found = by.into_iter().find(|(number, _)| has_capability(*number));
    Check {
        name: "choose pids",
        have: found.is_some(),
        needed: true,
        detail: found
            .map_or(
                "neither CAP_CHECKPOINT_RESTORE nor CAP_SYS_ADMIN",
                |(_, name)| name,
            )
            .to_owned(),
        cost: "nothing can be restored under its own pid (clone3 with set_tid)",
    }
}

/// Documentation/admin-guide/LSM/Yama.rst.
fn yama() -> Check {
    let scope = read("/proc/sys/kernel/yama/ptrace_scope");
    let (have, detail) = match scope.as_str() {
        "" => (true, "not in this kernel"),
        "0" => (true, "ptrace_scope is 0"),
        "1" => (
            true,
            "ptrace_scope is 1: programs that are no children need CAP_SYS_PTRACE",
        ),
        "2" => (true, "ptrace_scope is 2: CAP_SYS_PTRACE needed"),
        _ => (
            false,
            "ptrace_scope is 3: nobody may trace, until the next boot",
        ),
    };
    Check {
        name: "ptrace allowed (yama)",
        have,
        needed: true,
        detail: detail.to_owned(),
        cost: "no program can be stopped",
    }
}

fn pidfd() -> Check {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let probe = pidfd_open(own).and_then(|pidfd| {
        use std::os::fd::{AsFd, AsRawFd};
        // Of its own descriptors every process may have a copy: this asks for the system call alone.
        pidfd_getfd(pidfd.as_fd(), pidfd.as_raw_fd())
    });
    Check {
        name: "pidfd_getfd",
        have: probe.is_ok(),
        needed: true,
        detail: outcome(&probe),
        cost: "open files cannot be examined",
    }
}

/// CONFIG_PROC_CHILDREN, part of CONFIG_CHECKPOINT_RESTORE.
fn children() -> Check {
    let probe = fs::read_to_string("/proc/thread-self/children");
    Check {
        name: "/proc/PID/task/TID/children",
        have: probe.is_ok(),
        needed: true,
        detail: outcome(&probe),
        cost: "the tree of a program cannot be found (kernel without CONFIG_CHECKPOINT_RESTORE)",
    }
}

/// The same option of the kernel brings arch_prctl(ARCH_MAP_VDSO_64) and prctl(PR_SET_MM_MAP).
fn map_files() -> Check {
    let probe = fs::read_dir("/proc/self/map_files").and_then(|mut entries| match entries.next() {
        Some(entry) => fs::metadata(entry?.path()).map(drop),
        None => Ok(()),
    });
    Check {
        name: "/proc/PID/map_files",
        have: probe.is_ok(),
        needed: true,
        detail: outcome(&probe),
        cost: "mapped files that were deleted, and shared memory, cannot be read; without CONFIG_CHECKPOINT_RESTORE \
               the vdso cannot be put back either",
    }
}

fn pagemap() -> Check {
    let probe = fs::File::open("/proc/self/pagemap");
    Check {
        name: "/proc/PID/pagemap",
        have: probe.is_ok() && kernel_at_least(6, 7),
        needed: true,
        detail: outcome(&probe),
        cost: "memory in use cannot be told from memory that is only reserved",
    }
}

/// proc_mem.force_override=never or =ptrace on the kernel's command line, Linux 6.12.
fn mem_writes() -> Check {
    let line = read("/proc/cmdline");
    let setting = line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("proc_mem.force_override="));
    Check {
        name: "writing through /proc/PID/mem",
        have: setting != Some("never"),
        needed: true,
        detail: setting.map_or_else(
            || "not restricted".to_owned(),
            |value| format!("proc_mem.force_override={value}"),
        ),
        cost: "memory that a program may only read cannot be filled",
    }
}

/// PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13, with CONFIG_RSEQ.
fn rseq() -> Check {
    // The auxiliary vector has the size of the area since 6.3; the C library registers it with every kernel that can.
    let have = kernel_at_least(5, 13) && auxiliary(27).is_some();
    Check {
        name: "restartable sequences",
        have,
        needed: false,
        detail: match auxiliary(27) {
            Some(bytes) => format!("the kernel knows {bytes} bytes"),
            None => "not in this kernel".to_owned(),
        },
        cost: "programs have none either; one from a machine that has them cannot be restored here",
    }
}

/// A value of this process's auxiliary vector, getauxval(3).
fn auxiliary(key: u64) -> Option<u64> {
    let bytes = fs::read("/proc/self/auxv").ok()?;
    bytes.chunks_exact(16).find_map(|pair| {
        let (found, value) = pair.split_at(8);
        let word = |half: &[u8]| half.try_into().ok().map(u64::from_ne_bytes);
        (word(found)? == key).then(|| word(value)).flatten()
    })
}

fn userfaultfd() -> Check {
    let device = Path::new("/dev/userfaultfd").exists();
    let setting = read("/proc/sys/vm/unprivileged_userfaultfd");
    let have = device || !setting.is_empty();
    Check {
        name: "userfaultfd",
        have,
        needed: false,
        detail: if have {
            format!("unprivileged_userfaultfd is {setting}")
        } else {
            "not in this kernel".to_owned()
        },
        cost: "restores cannot be lazy, nor checkpoints incremental",
    }
}

/// UFFD_FEATURE_WP_ASYNC of ioctl_userfaultfd(2).
fn write_tracking() -> Check {
    let have = cryopod_sys::userfaultfd::can_follow_writes();
    Check {
        name: "tracked writes",
        have,
        needed: false,
        detail: if have {
            "userfaultfd's asynchronous write protection"
        } else {
            "not in this kernel, or not allowed"
        }
        .to_owned(),
        cost: "checkpoints cannot be incremental: all of them are full ones",
    }
}

fn seccomp_filters() -> bool {
    read("/proc/sys/kernel/seccomp/actions_avail").contains("trap")
}

fn cgroups() -> Check {
    let mounts = read("/proc/self/mounts");
    let mounted = |kind: &str| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some(kind))
    };
    let detail = match (mounted("cgroup"), mounted("cgroup2")) {
        (false, false) => "none mounted",
        (true, false) => "version 1",
        (false, true) => "version 2",
        (true, true) => "versions 1 and 2",
    };
    Check {
        name: "cgroups",
        have: detail != "none mounted",
        needed: false,
        detail: detail.to_owned(),
        cost: "nothing: what group a program is in is recorded from /proc",
    }
}

fn free_space(store: &Path) -> Check {
    const GIB: u64 = 1 << 30;
    // A store that is not there yet will be made on the file system of whatever is.
    let nearest = store
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let free_bytes =
        rustix::fs::statvfs(nearest).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let (have, detail) = match free_bytes {
        Ok(bytes) => (
            bytes >= GIB,
            format!(
                "{:.1} GiB free for {}",
                bytes as f64 / GIB as f64,
                store.display()
            ),
        ),
        Err(errno) => (false, format!("{}: {errno}", nearest.display())),
    };
    Check {
        name: "room for checkpoints",
        have,
        needed: false,
        detail,
        cost: "a checkpoint needs as much room as its program uses memory",
    }
}

/// The contents of a small file of the kernel's, nothing if it is not there.
fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

fn outcome<T, E: std::fmt::Display>(probe: &std::result::Result<T, E>) -> String {
    match probe {
        Ok(_) => "works".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v470"), Some((6, 18)));
        assert_eq!(parse_release("10.0"), Some((10, 0)));
        assert_eq!(parse_release("6"), None);
        assert_eq!(parse_release(""), None);
        assert!(parse_release("6.7.0") < parse_release("6.18.0"));
    }

    #[test]
    fn everything_that_is_looked_at_says_what_it_costs() {
        let dir = tempfile::tempdir().unwrap();
        let found = examine(Some(&dir.path().join("not/there/yet")));
        assert!(
            found
                .checks
                .iter()
                .all(|check| !check.cost.is_empty() && !check.detail.is_empty()),
            "{found:?}"
        );
        assert!(
            found
                .checks
                .iter()
                .any(|check| check.name == "room for checkpoints")
        );
        assert_eq!(
            found.ready,
            found.checks.iter().all(|check| check.have || !check.needed)
        );
    }

    #[test]
    fn features_have_criu_s_names() {
        assert_eq!(has_feature("timerfd"), Some(true));
        assert_eq!(has_feature("no_such_thing"), None);
    }
}
