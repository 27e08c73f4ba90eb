//! In which control groups each task is: recorded as it is (cgroup.img).

use cryopod_image::criu::{CgMemberEntry, CgSetEntry, CgroupEntry};
use cryopod_image::{Kind, SetWriter};

use crate::error::Result;
use crate::proc;

/// The distinct sets of memberships in a tree.
#[derive(Debug, Default)]
pub struct Sets {
    sets: Vec<CgSetEntry>,
}

impl Sets {
    /// The id of the set that a thread belongs to.
    pub fn of(&mut self, pid: i32, tid: i32) -> Result<u32> {
        let members = parse(&proc::read_text(pid, &format!("task/{tid}/cgroup"))?);
        if let Some(known) = self.sets.iter().find(|set| set.ctls == members) {
            return Ok(known.id);
        }
        let id = self.sets.len() as u32 + 1;
        self.sets.push(CgSetEntry { id, ctls: members });
        Ok(id)
    }

    /// Writes cgroup.img.
    pub fn write(self, set: &SetWriter) -> Result<()> {
        let entry = CgroupEntry {
            sets: self.sets,
            controllers: Vec::new(),
        };
        Ok(set.write_one(Kind::Cgroup, None, &entry)?)
    }
}

/// `id:controllers:path` lines, see cgroups(7). Sorted by name, as criu wants them.
fn parse(text: &str) -> Vec<CgMemberEntry> {
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
}
