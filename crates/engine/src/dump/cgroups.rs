//! In which control groups each task is, and how these groups are set up: cgroup.img.
//!
//! A hierarchy in which all tasks are where cryopod is needs nothing more: they will be where the restorer is. Of the
//! others, the groups of the tasks are recorded with their settings and everything below them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryopod_image::criu::{
    CgControllerEntry, CgSetEntry, CgroupDirEntry, CgroupEntry, CgroupPerms, CgroupPropEntry,
};
use cryopod_image::{Kind, SetWriter};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::cgroups::{CgroupOptions, ManageCgroups, of_task, properties};
use crate::error::{Error, Result};

/// More groups below those of a tree than any container has.
const MOST_GROUPS: usize = 4096;
/// Most bytes of one setting.
const LARGEST_SETTING: u64 = 1 << 16;

/// The distinct sets of memberships in a tree.
#[derive(Debug, Default)]
pub struct Sets {
    sets: Vec<CgSetEntry>,
    own: Option<u32>,
}

impl Sets {
    /// The id of the set that a thread belongs to.
    pub fn of(&mut self, pid: i32, tid: i32) -> Result<u32> {
        let members = of_task(pid, tid)?;
        if let Some(known) = self.sets.iter().find(|set| set.ctls == members) {
            return Ok(known.id);
        }
        let id = self.sets.len() as u32 + 1;
        self.sets.push(CgSetEntry { id, ctls: members });
        Ok(id)
    }

    /// The id of cryopod's own set.
    pub fn own(&mut self) -> Result<u32> {
        let pid = std::process::id() as i32;
        let id = self.of(pid, pid)?;
        self.own = Some(id);
        Ok(id)
    }

    /// Writes cgroup.img.
    pub fn write(self, set: &SetWriter, options: &CgroupOptions) -> Result<()> {
        let entry = CgroupEntry {
            controllers: self.controllers(options)?,
            sets: self.sets,
        };
        Ok(set.write_one(Kind::Cgroup, None, &entry)?)
    }

    /// All hierarchies, with the groups that may have to be made again.
    fn controllers(&self, options: &CgroupOptions) -> Result<Vec<CgControllerEntry>> {
        let names: BTreeSet<&str> = self
            .sets
            .iter()
            .flat_map(|set| &set.ctls)
            .map(|member| member.name.as_str())
            .collect();
        let mut controllers = Vec::new();
        for name in names {
            let mut hierarchy = Hierarchy {
                name,
                heads: Vec::new(),
                threaded: !name.is_empty(),
                groups: 0,
            };
            if options.manage != ManageCgroups::Ignore {
                hierarchy.record(&self.elsewhere(name), options)?;
            }
            controllers.push(CgControllerEntry {
                cnames: name.split(',').map(str::to_owned).collect(),
                dirs: hierarchy.heads,
                is_threaded: Some(hierarchy.threaded),
            });
        }
        Ok(controllers)
    }

    /// The groups in a hierarchy that tasks are in and cryopod is not, outer ones first.
    fn elsewhere(&self, name: &str) -> BTreeSet<&[u8]> {
        let path = |set: &'_ CgSetEntry| -> Option<Vec<u8>> {
            let member = set.ctls.iter().find(|member| member.name == name)?;
            Some(member.path.clone())
        };
        let own = self
            .sets
            .iter()
            .find(|set| Some(set.id) == self.own)
            .and_then(path);
        self.sets
            .iter()
            .flat_map(|set| &set.ctls)
            .filter(|member| member.name == name && Some(&member.path) != own.as_ref())
            .map(|member| member.path.as_slice())
            .collect()
    }
}

/// One hierarchy that is being recorded.
struct Hierarchy<'a> {
    name: &'a str,
    heads: Vec<CgroupDirEntry>,
    threaded: bool,
    groups: usize,
}

impl Hierarchy<'_> {
    fn record(&mut self, paths: &BTreeSet<&[u8]>, options: &CgroupOptions) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let root = options.open(self.name)?;
        let roots: BTreeSet<&[u8]> = match options.root(self.name) {
            Some(root) => BTreeSet::from([root.as_os_str().as_bytes()]),
            None => paths.clone(),
        };
        for path in roots {
            let path = Path::new(OsStr::from_bytes(path));
            let below = path.strip_prefix("/").unwrap_or(path);
            let covered = self.heads.iter().any(|head| {
                let head = Path::new(OsStr::from_bytes(&head.dir_name));
                !head.as_os_str().is_empty() && below.starts_with(head)
            });
            if covered {
                continue;
            }
            // The root of a hierarchy has no settings, and not everything below it is the tree's.
            let head = if below.as_os_str().is_empty() {
                CgroupDirEntry::default()
            } else {
                let directory =
                    open(root.as_fd(), below).map_err(|errno| self.failed(below, errno))?;
                self.group(directory, below)?
            };
            self.heads.push(head);
        }
        Ok(())
    }

    fn failed(&self, path: &Path, source: Errno) -> Error {
        Error::Cgroup {
            operation: "look at",
            group: format!("{}:/{}", self.name, path.display()),
            source,
        }
    }

    /// A group with all below it. `path` is from the root; the entry's name is from the group above.
    fn group(&mut self, directory: OwnedFd, path: &Path) -> Result<CgroupDirEntry> {
        self.groups += 1;
        if self.groups > MOST_GROUPS {
            return Err(self.failed(path, Errno::TOOBIG));
        }
        let failed = |errno| self.failed(path, errno);
        let stat = rustix::fs::fstat(&directory).map_err(failed)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        let settings = self.settings(directory.as_fd());
        let mut children = Vec::new();
        for name in names {
            let name = Path::new(OsStr::from_bytes(&name));
            let below = path.join(name);
            match open(directory.as_fd(), name) {
                Ok(child) => children.push(CgroupDirEntry {
                    dir_name: name.as_os_str().as_bytes().to_vec(),
                    ..self.group(child, &below)?
                }),
                // Others may remove their groups meanwhile.
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err(self.failed(&below, errno)),
            }
        }
        Ok(CgroupDirEntry {
            dir_name: path.as_os_str().as_bytes().to_vec(),
            children,
            properties: settings,
            dir_perms: Some(permissions(&stat)),
        })
    }

    /// The settings of a group; what a kernel does not have, or does not let be read, is left out.
    fn settings(&mut self, directory: BorrowedFd<'_>) -> Vec<CgroupPropEntry> {
        let mut settings = Vec::new();
        for name in properties(self.name) {
            let Some((value, stat)) = read(directory, name) else {
                continue;
            };
            if name == "cgroup.type" && value == b"threaded" {
                self.threaded = true;
            }
            settings.push(CgroupPropEntry {
                name: name.to_owned(),
                value: writable(name, value),
                perms: Some(permissions(&stat)),
            });
        }
        settings
    }
}

fn open(directory: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, path, flags, Mode::empty())
}

fn read(directory: BorrowedFd<'_>, name: &str) -> Option<(Vec<u8>, Stat)> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    // Who is in a group is told by the tasks.
    if matches!(name, "cgroup.procs" | "tasks") {
        return Some((Vec::new(), stat));
    }
    let mut value = Vec::new();
    File::from(file)
        .take(LARGEST_SETTING)
        .read_to_end(&mut value)
        .ok()?;
    while value.last() == Some(&b'\n') {
        value.pop();
    }
    Some((value, stat))
}

/// What has to be written for what was read.
fn writable(name: &str, value: Vec<u8>) -> Vec<u8> {
    match name {
        // The first of several lines, without its name.
        "memory.oom_control" => {
            let line = value
                .split(|&byte| byte == b'\n')
                .next()
                .unwrap_or_default();
            line.strip_prefix(b"oom_kill_disable ")
                .unwrap_or(line)
                .to_vec()
        }
        _ => value,
    }
}

fn permissions(stat: &Stat) -> CgroupPerms {
    CgroupPerms {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::parse;

    #[test]
    fn only_what_is_elsewhere_is_recorded() {
        let set = |id, text| CgSetEntry {
            id,
            ctls: parse(text),
        };
        let sets = Sets {
            sets: vec![
                set(1, "1:cpu:/\n2:name=x:/a\n"),
                set(2, "1:cpu:/\n2:name=x:/a/b\n"),
                set(3, "1:cpu:/\n2:name=x:/\n"),
            ],
            own: Some(3),
        };
        assert!(sets.elsewhere("cpu").is_empty());
        let expected: BTreeSet<&[u8]> = BTreeSet::from([&b"/a"[..], b"/a/b"]);
        assert_eq!(sets.elsewhere("name=x"), expected);
    }

    #[test]
    fn a_setting_is_kept_as_it_is_written() {
        let value = b"oom_kill_disable 1\nunder_oom 0".to_vec();
        assert_eq!(writable("memory.oom_control", value), b"1");
        assert_eq!(writable("cpu.shares", b"1024".to_vec()), b"1024");
    }
}
