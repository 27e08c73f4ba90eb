//! Control groups: those that are gone are made before anything else, because tasks may have them open; each task
//! goes to its own as soon as it is made, so that its memory is counted there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use cryopod_image::criu::{
    CgMemberEntry, CgroupDirEntry, CgroupEntry, CgroupPerms, CgroupPropEntry, InventoryEntry,
};
use cryopod_image::{Kind, SetReader};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::plan::{Plan, Thread};
use crate::cgroups::{CgroupOptions, ManageCgroups, of_task};
use crate::error::{Error, Result};

/// Where the tasks of one set go: hierarchy and path below its root.
type Places = Vec<(String, PathBuf)>;

/// The control groups of a tree. Those that were made are removed again unless they are kept.
#[derive(Debug, Default)]
pub struct Cgroups {
    hierarchies: BTreeMap<String, OwnedFd>,
    /// By id of the set.
    places: HashMap<u32, Places>,
    made: Vec<(String, PathBuf)>,
}

impl Cgroups {
    /// Reads cgroup.img, and makes what is not there as far as that is asked for.
    pub fn prepare(set: &SetReader, plan: &Plan, options: &CgroupOptions) -> Result<Self> {
        let mut cgroups = Self::default();
        if options.manage == ManageCgroups::Ignore || !set.exists(Kind::Cgroup, None) {
            return Ok(cgroups);
        }
        let inventory: InventoryEntry = set.read_one(Kind::Inventory, None)?;
        let mut image: CgroupEntry = set.read_one(Kind::Cgroup, None)?;
        let dumper: Vec<CgMemberEntry> = image
            .sets
            .iter()
            .find(|one| Some(one.id) == inventory.root_cg_set)
            .map(|one| one.ctls.clone())
            .unwrap_or_default();
        rewrite(&mut image, options);
        let own = std::process::id() as i32;
        let own = of_task(own, own)?;
        let mut wanted: Vec<u32> = plan
            .tasks
            .iter()
            .flat_map(|task| &task.threads)
            .filter_map(set_of)
            .filter(|&id| Some(id) != inventory.root_cg_set)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        for id in wanted {
            let Some(members) = image.sets.iter().find(|one| one.id == id) else {
                return Err(Error::inconsistent(
                    "cgroup",
                    format!("there is no set {id}"),
                ));
            };
            let places = members
                .ctls
                .iter()
                .filter_map(|member| place(member, &dumper, &own).transpose())
                .collect::<Result<Places>>()?;
            cgroups.places.insert(id, places);
        }
        if cgroups.places.is_empty() {
            return Ok(cgroups);
        }
        for controller in image.controllers.iter().filter(|one| !one.dirs.is_empty()) {
            let name = controller.cnames.join(",");
            let root = cgroups.hierarchy(&name, options)?;
            let mut making = Making {
                name: &name,
                manage: options.manage,
                made: &mut cgroups.made,
            };
            for head in &controller.dirs {
                making.group(root.as_fd(), Path::new(""), head)?;
            }
        }
        let names: Vec<String> = cgroups
            .places
            .values()
            .flatten()
            .filter(|(name, path)| !is_there(&own, name, path))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            cgroups.hierarchy(&name, options)?;
        }
        Ok(cgroups)
    }

    /// The root of a hierarchy, as a further descriptor.
    fn hierarchy(&mut self, name: &str, options: &CgroupOptions) -> Result<OwnedFd> {
        if !self.hierarchies.contains_key(name) {
            self.hierarchies
                .insert(name.to_owned(), options.open(name)?);
        }
        let root = self.hierarchies.get(name).ok_or_else(|| {
            Error::inconsistent("cgroup", format!("there is no hierarchy {name:?}"))
        })?;
        rustix::io::fcntl_dupfd_cloexec(root, 0).map_err(|source| Error::Cgroup {
            operation: "open the hierarchy of",
            group: format!("{name}:/"),
            source,
        })
    }

    /// Takes a process, which has one thread so far, to the groups of its leader.
    pub fn enter(&self, pid: i32, leader: &Thread) -> Result<()> {
        self.join(pid, pid, leader, "cgroup.procs", "cgroup.procs")
    }

    /// Takes a thread to its groups, where they are not its leader's.
    pub fn enter_thread(&self, pid: i32, thread: &Thread) -> Result<()> {
        self.join(pid, thread.tid, thread, "tasks", "cgroup.threads")
    }

    fn join(&self, pid: i32, tid: i32, thread: &Thread, first: &str, second: &str) -> Result<()> {
        if self.places.is_empty() {
            return Ok(());
        }
        // A set that is not among them is the dumper's: it stands for the restorer's.
        let own = std::process::id() as i32;
        let here;
        let places = match set_of(thread).and_then(|id| self.places.get(&id)) {
            Some(places) => places,
            None => {
                here = of_task(own, own)?
                    .iter()
                    .map(|member| Ok((member.name.clone(), below(&member.path)?)))
                    .collect::<Result<Places>>()?;
                &here
            }
        };
        let now = of_task(pid, tid)?;
        for (name, path) in places
            .iter()
            .filter(|(name, path)| !is_there(&now, name, path))
        {
            let file = path.join(if name.is_empty() { second } else { first });
            let failed = |source| Error::Cgroup {
                operation: "move a task into",
                group: format!("{name}:/{}", path.display()),
                source,
            };
            let Some(root) = self.hierarchies.get(name) else {
                return Err(failed(Errno::NODEV));
            };
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(root, &file, flags, Mode::empty()).map_err(failed)?;
            rustix::io::write(&file, tid.to_string().as_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    /// The tree lives: what was made stays.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for (name, path) in self.made.iter().rev() {
            if let Some(root) = self.hierarchies.get(name)
                && let Err(error) = rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR)
            {
                tracing::warn!(hierarchy = name, path = %path.display(), %error, "a control group is left");
            }
        }
    }
}

fn set_of(thread: &Thread) -> Option<u32> {
    let core = &thread.core;
    let of_thread = core.thread_core.as_ref().and_then(|one| one.cg_set);
    of_thread.or_else(|| core.tc.as_ref().and_then(|tc| tc.cg_set))
}

fn is_there(members: &[CgMemberEntry], name: &str, path: &Path) -> bool {
    members
        .iter()
        .any(|member| member.name == name && below(&member.path).is_ok_and(|here| here == path))
}

/// Where a membership leads: to the group that it names, or, where the dumper was there too, to the restorer's. Nowhere,
/// where that is in a hierarchy that is gone by now: it meant nothing to the program.
fn place(
    member: &CgMemberEntry,
    dumper: &[CgMemberEntry],
    own: &[CgMemberEntry],
) -> Result<Option<(String, PathBuf)>> {
    let name = member.name.clone();
    let with_dumper = dumper
        .iter()
        .any(|one| one.name == name && one.path == member.path);
    let here = own.iter().find(|one| one.name == name);
    let path = match here {
        None if with_dumper => return Ok(None),
        Some(here) if with_dumper => below(&here.path)?,
        _ => below(&member.path)?,
    };
    Ok(Some((name, path)))
}

/// A path from an image, below the root, with nothing in it that leads out.
fn below(path: &[u8]) -> Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                let what = format!("the path {} leads out", path.display());
                return Err(Error::inconsistent("cgroup", what));
            }
        }
    }
    Ok(clean)
}

/// Puts groups below other roots: a recorded head becomes the root, and memberships follow.
fn rewrite(image: &mut CgroupEntry, options: &CgroupOptions) {
    for controller in &mut image.controllers {
        let name = controller.cnames.join(",");
        let Some(root) = options.root(&name) else {
            continue;
        };
        let new = root.as_os_str().as_bytes();
        for head in &mut controller.dirs {
            let old = PathBuf::from(OsStr::from_bytes(&head.dir_name));
            let members = image.sets.iter_mut().flat_map(|set| &mut set.ctls);
            for member in members.filter(|member| member.name == name) {
                let path = Path::new(OsStr::from_bytes(&member.path));
                let path = path.strip_prefix("/").unwrap_or(path);
                if let Ok(rest) = path.strip_prefix(&old) {
                    member.path = root.join(rest).as_os_str().as_bytes().to_vec();
                }
            }
            head.dir_name = new.strip_prefix(b"/").unwrap_or(new).to_vec();
        }
    }
}

/// Making the groups of one hierarchy.
struct Making<'a> {
    name: &'a str,
    manage: ManageCgroups,
    made: &'a mut Vec<(String, PathBuf)>,
}

impl Making<'_> {
    fn failed(&self, operation: &'static str, path: &Path, source: Errno) -> Error {
        Error::Cgroup {
            operation,
            group: format!("{}:/{}", self.name, path.display()),
            source,
        }
    }

    fn group(&mut self, root: BorrowedFd<'_>, above: &Path, entry: &CgroupDirEntry) -> Result<()> {
        let path = above.join(below(&entry.dir_name)?);
        if path.as_os_str().is_empty() {
            return self.children(root, &path, entry);
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_new = match rustix::fs::openat(root, &path, flags, Mode::empty()) {
            Ok(_) if self.manage == ManageCgroups::Strict => {
                return Err(self.failed("make", &path, Errno::EXIST));
            }
            Ok(_) => false,
            Err(Errno::NOENT) => {
                self.make(root, &path)?;
                true
            }
            Err(errno) => return Err(self.failed("open", &path, errno)),
        };
        let open = rustix::fs::openat(root, &path, flags, Mode::empty())
            .map_err(|errno| self.failed("open", &path, errno))?;
        let settles = match self.manage {
            ManageCgroups::Ignore | ManageCgroups::None => false,
            ManageCgroups::Soft => is_new,
            ManageCgroups::Props | ManageCgroups::Full | ManageCgroups::Strict => true,
        };
        if settles {
            if let Some(perms) = &entry.dir_perms {
                give(open.as_fd(), perms).map_err(|errno| self.failed("set up", &path, errno))?;
            }
            for setting in &entry.properties {
                set(open.as_fd(), setting).map_err(|errno| {
                    let file = path.join(&setting.name);
                    self.failed("set", &file, errno)
                })?;
            }
        }
        self.children(root, &path, entry)
    }

    fn children(
        &mut self,
        root: BorrowedFd<'_>,
        path: &Path,
        entry: &CgroupDirEntry,
    ) -> Result<()> {
        // The depth is bounded by the decoder's.
        for child in &entry.children {
            self.group(root, path, child)?;
        }
        Ok(())
    }

    /// mkdir(2), with the groups above it that are gone too; of those nothing is known.
    fn make(&mut self, root: BorrowedFd<'_>, path: &Path) -> Result<()> {
        if matches!(self.manage, ManageCgroups::None | ManageCgroups::Props) {
            return Err(self.failed("find", path, Errno::NOENT));
        }
        let mut part = PathBuf::new();
        for component in path.components() {
            part.push(component);
            match rustix::fs::mkdirat(root, &part, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.made.push((self.name.to_owned(), part.clone())),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make", &part, errno)),
            }
        }
        Ok(())
    }
}

/// Owner and mode.
fn give(file: BorrowedFd<'_>, perms: &CgroupPerms) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(perms.uid), Gid::from_raw(perms.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(perms.mode & 0o7777))
}

/// One setting.
fn set(directory: BorrowedFd<'_>, setting: &CgroupPropEntry) -> rustix::io::Result<()> {
    let name = setting.name.as_str();
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(Errno::INVAL);
    }
    if name == "devices.list" {
        return devices(directory, &setting.value);
    }
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    if let Some(perms) = &setting.perms {
        give(file.as_fd(), perms)?;
    }
    let value = setting.value.as_slice();
    match name {
        // Who is in it follows.
        "cgroup.procs" | "tasks" => Ok(()),
        "cgroup.type" if value != b"threaded" => Ok(()),
        "cgroup.subtree_control" => {
            let words = value.split(|&byte| byte == b' ');
            for word in words.filter(|word| !word.is_empty()) {
                write(file.as_fd(), &[b"+", word].concat())?;
            }
            Ok(())
        }
        // A line at a time, as the kernel reads them; the network interfaces of another machine may be others.
        "net_prio.ifpriomap" => {
            for line in lines(value).filter(|line| !line.ends_with(b" 0")) {
                match write(file.as_fd(), line) {
                    Err(Errno::NODEV | Errno::INVAL) => {}
                    written => written?,
                }
            }
            Ok(())
        }
        "io.max" | "io.latency" | "io.weight" => {
            lines(value).try_for_each(|line| write(file.as_fd(), line))
        }
        _ if value.is_empty() => Ok(()),
        _ => match write(file.as_fd(), value) {
            // Settings that this kernel has given up.
            Err(Errno::OPNOTSUPP) => Ok(()),
            written => written,
        },
    }
}

/// The list of allowed devices can only be read; it is written by denying all and allowing each.
fn devices(directory: BorrowedFd<'_>, list: &[u8]) -> rustix::io::Result<()> {
    let open = |name: &str| {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::empty())
    };
    write(open("devices.deny")?.as_fd(), b"a")?;
    let allow = open("devices.allow")?;
    lines(list).try_for_each(|line| write(allow.as_fd(), line))
}

fn lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
}

fn write(file: BorrowedFd<'_>, value: &[u8]) -> rustix::io::Result<()> {
    rustix::io::write(file, value).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::parse;
    use cryopod_image::criu::{CgControllerEntry, CgSetEntry};

    #[test]
    fn no_path_leads_out() {
        assert_eq!(below(b"/a//b/./c").unwrap(), Path::new("a/b/c"));
        assert_eq!(below(b"/").unwrap(), Path::new(""));
        assert!(below(b"/a/../../b").is_err());
    }

    #[test]
    fn where_the_dumper_was_the_restorer_is() {
        let dumper = parse("1:cpu:/old\n2:name=x:/\n");
        let own = parse("1:cpu:/new\n2:name=x:/y\n");
        let task = parse("1:cpu:/old\n2:name=x:/group\n");
        let places: Vec<_> = task
            .iter()
            .filter_map(|member| place(member, &dumper, &own).unwrap())
            .collect();
        assert!(places.contains(&("cpu".into(), "new".into())));
        assert!(places.contains(&("name=x".into(), "group".into())));
        // A hierarchy that is gone leads nowhere, unless the task had a group of its own there.
        let gone = place(&dumper[0], &dumper, &[]).unwrap();
        assert_eq!(gone, None);
        assert!(place(&task[1], &dumper, &[]).unwrap().is_some());
    }

    #[test]
    fn another_root_takes_all_below_it_along() {
        let head = CgroupDirEntry {
            dir_name: b"prefix".to_vec(),
            ..CgroupDirEntry::default()
        };
        let mut image = CgroupEntry {
            sets: vec![CgSetEntry {
                id: 1,
                ctls: parse("1:name=x:/prefix/sub\n2:name=y:/prefix/sub\n"),
            }],
            controllers: vec![CgControllerEntry {
                cnames: vec!["name=x".into()],
                dirs: vec![head],
                is_threaded: None,
            }],
        };
        let options = CgroupOptions {
            roots: vec!["/other".parse().unwrap()],
            ..CgroupOptions::default()
        };
        rewrite(&mut image, &options);
        assert_eq!(image.controllers[0].dirs[0].dir_name, b"other");
        let paths: Vec<&[u8]> = image.sets[0]
            .ctls
            .iter()
            .map(|member| member.path.as_slice())
            .collect();
        assert_eq!(paths, [&b"/other/sub"[..], b"/prefix/sub"]);
    }
}
