//! Control groups (cgroups(7)): what their dump and their restore share.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cryopod_image::criu::CgMemberEntry;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Error, Result};

/// What is done about control groups, named as criu names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManageCgroups {
    /// Nothing: tasks stay where the restorer is.
    Ignore,
    /// Tasks go back to groups that must be there; these are left as they are.
    None,
    /// Tasks go back to groups that must be there; these get their settings.
    Props,
    /// Groups that are gone are made with their settings; others are left as they are.
    #[default]
    Soft,
    /// Groups that are gone are made; all get their settings.
    Full,
    /// All groups are made; one that is there is an error.
    Strict,
}

impl ManageCgroups {
    /// All of them, with the names that options use.
    pub const ALL: [(&'static str, Self); 6] = [
        ("ignore", Self::Ignore),
        ("none", Self::None),
        ("props", Self::Props),
        ("soft", Self::Soft),
        ("full", Self::Full),
        ("strict", Self::Strict),
    ];
}

impl FromStr for ManageCgroups {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, mode)| mode).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is none of {}", names.join(", "))
        })
    }
}

impl fmt::Display for ManageCgroups {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.into_iter().find(|(_, mode)| mode == self);
        formatter.write_str(found.map_or("", |(name, _)| name))
    }
}

/// Another root for the groups of a tree: `[CONTROLLERS:]/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    /// The hierarchy as /proc/PID/cgroup names it ("memory", "name=systemd"); all others where there is none.
    pub hierarchy: Option<String>,
    /// The root in it.
    pub path: PathBuf,
}

impl FromStr for CgroupRoot {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (hierarchy, path) = match text.split_once(':') {
            Some((hierarchy, path)) => (Some(hierarchy.to_owned()), path),
            None => (None, text),
        };
        if !path.starts_with('/') {
            return Err(format!("{text:?} is not [CONTROLLERS:]/PATH"));
        }
        let path = PathBuf::from(path);
        Ok(Self { hierarchy, path })
    }
}

/// How control groups are treated.
#[derive(Clone, Debug, Default)]
pub struct CgroupOptions {
    /// What is done about them.
    pub manage: ManageCgroups,
    /// At the dump, from where on groups are recorded; at the restore, where they come to be.
    pub roots: Vec<CgroupRoot>,
    /// A directory with all hierarchies mounted in it, named by their controllers, or "unified".
    pub yard: Option<PathBuf>,
}

impl CgroupOptions {
    /// The other root for a hierarchy, if there is one.
    pub(crate) fn root(&self, hierarchy: &str) -> Option<&Path> {
        let of = |wanted: Option<&str>| {
            let found = self
                .roots
                .iter()
                .rev()
                .find(|root| root.hierarchy.as_deref() == wanted);
            found.map(|root| root.path.as_path())
        };
        of(Some(hierarchy)).or_else(|| of(None))
    }

    /// The root directory of a hierarchy, by a mount that nobody else sees.
    pub(crate) fn open(&self, hierarchy: &str) -> Result<OwnedFd> {
        if let Some(yard) = &self.yard {
            let name = match hierarchy {
                "" => "unified",
                named => named.strip_prefix("name=").unwrap_or(named),
            };
            let path = yard.join(name);
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            return rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| Error::Path {
                operation: "open",
                path,
                source: errno.into(),
            });
        }
        mount(hierarchy).map_err(|source| Error::Cgroup {
            operation: "open the hierarchy of",
            group: format!("{hierarchy}:/"),
            source,
        })
    }
}

/// fsopen(2) and fsmount(2): a mount without a place, which goes with its descriptor.
fn mount(hierarchy: &str) -> rustix::io::Result<OwnedFd> {
    let kind = if hierarchy.is_empty() {
        "cgroup2"
    } else {
        "cgroup"
    };
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(name) = hierarchy.strip_prefix("name=") {
        rustix::mount::fsconfig_set_flag(&context, "none")?;
        rustix::mount::fsconfig_set_string(&context, "name", name)?;
    } else {
        for controller in hierarchy.split(',').filter(|name| !name.is_empty()) {
            rustix::mount::fsconfig_set_flag(&context, controller)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

/// The groups that a task of ours is in.
pub(crate) fn of_task(pid: i32, tid: i32) -> Result<Vec<CgMemberEntry>> {
    let file = format!("task/{tid}/cgroup");
    Ok(parse(&crate::proc::read_text(pid, &file)?))
}

/// `id:controllers:path` lines of /proc/PID/cgroup. Sorted by name, as criu wants them.
pub(crate) fn parse(text: &str) -> Vec<CgMemberEntry> {
    let mut members: Vec<CgMemberEntry> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (name, path) = (parts.next()?, parts.next()?);
            Some(CgMemberEntry {
                name: name.to_owned(),
                path: path.as_bytes().to_vec(),
                cgns_prefix: None,
            })
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

/// The files that say how a group is set up, in the order in which they must be written.
pub(crate) fn properties(hierarchy: &str) -> impl Iterator<Item = &'static str> {
    let own = PROPERTIES
        .iter()
        .filter(|(controller, _)| hierarchy.split(',').any(|name| name == *controller))
        .flat_map(|(_, files)| files.iter().copied());
    let of_all: &[&str] = if hierarchy.is_empty() {
        UNIFIED
    } else {
        FIRST_VERSION
    };
    own.chain(of_all.iter().copied())
}

/// Of every group of version 1.
const FIRST_VERSION: &[&str] = &[
    "cgroup.clone_children",
    "notify_on_release",
    "cgroup.procs",
    "tasks",
];

/// Of version 2 (Documentation/admin-guide/cgroup-v2.rst), by whatever controllers are on.
const UNIFIED: &[&str] = &[
    "cgroup.type",
    "cgroup.subtree_control",
    "cgroup.max.descendants",
    "cgroup.max.depth",
    "cpuset.cpus",
    "cpuset.mems",
    "cpuset.cpus.partition",
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "cpu.idle",
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "memory.swap.high",
    "memory.zswap.max",
    "memory.oom.group",
    "io.weight",
    "io.max",
    "io.latency",
    "pids.max",
];

/// By controller of version 1 (Documentation/admin-guide/cgroup-v1). A limit on memory and swap together cannot be
/// below that on memory, so it comes later.
const PROPERTIES: &[(&str, &[&str])] = &[
    (
        "cpuset",
        &[
            "cpuset.cpus",
            "cpuset.mems",
            "cpuset.memory_migrate",
            "cpuset.cpu_exclusive",
            "cpuset.mem_exclusive",
            "cpuset.mem_hardwall",
            "cpuset.memory_spread_page",
            "cpuset.memory_spread_slab",
            "cpuset.sched_load_balance",
            "cpuset.sched_relax_domain_level",
        ],
    ),
    (
        "cpu",
        &[
            "cpu.shares",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpu.rt_period_us",
            "cpu.rt_runtime_us",
        ],
    ),
    (
        "memory",
        &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
            "memory.soft_limit_in_bytes",
            "memory.oom_control",
            "memory.kmem.tcp.limit_in_bytes",
        ],
    ),
    ("blkio", &["blkio.weight"]),
    ("devices", &["devices.list"]),
    ("net_cls", &["net_cls.classid"]),
    ("net_prio", &["net_prio.ifpriomap"]),
    ("pids", &["pids.max"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let members = parse("4:memory:/a:b\n0::/user.slice\n");
        assert_eq!(
            (members[0].name.as_str(), members[0].path.as_slice()),
            ("", b"/user.slice".as_slice())
        );
        assert_eq!(
            (members[1].name.as_str(), members[1].path.as_slice()),
            ("memory", b"/a:b".as_slice())
        );
    }

    #[test]
    fn a_root_is_for_one_hierarchy_or_all_others() {
        let options = CgroupOptions {
            roots: vec!["/all".parse().unwrap(), "name=x:/one".parse().unwrap()],
            ..CgroupOptions::default()
        };
        assert_eq!(options.root("name=x"), Some(Path::new("/one")));
        assert_eq!(options.root("memory"), Some(Path::new("/all")));
        assert_eq!(CgroupOptions::default().root("memory"), None);
        assert!("memory:relative".parse::<CgroupRoot>().is_err());
    }

    #[test]
    fn modes_have_names() {
        for (name, mode) in ManageCgroups::ALL {
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(mode.to_string(), name);
        }
        assert!("hard".parse::<ManageCgroups>().is_err());
    }

    #[test]
    fn properties_are_those_of_the_controllers() {
        let cpu: Vec<&str> = properties("cpu,cpuacct").collect();
        assert!(cpu.contains(&"cpu.shares") && cpu.contains(&"tasks"));
        assert!(!cpu.contains(&"pids.max"));
        assert!(properties("").any(|name| name == "pids.max"));
        assert_eq!(properties("name=x").count(), FIRST_VERSION.len());
    }
}
