//! /proc/sysvipc: every object of System V IPC in cryopod's namespace; proc_sysvipc(5).

use crate::error::{Error, Result};

/// A line of one of its files, by the names in the head of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and described in proc_sysvipc(5)")]
pub struct Object {
    pub key: i32,
    pub id: i32,
    /// With SHM_DEST (01000).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Of segments: size in bytes; of sets: semaphores; of queues: messages.
    pub size: u64,
    /// Of segments: how often it is attached.
    pub attached: u64,
    /// Maker and last user of a segment, last sender and receiver of a queue; 0 for nobody.
    pub pids: [i32; 2],
}

/// Reads `shm`, `sem` or `msg`. A kernel without System V IPC has none.
pub fn read(file: &'static str) -> Result<Vec<Object>> {
    let path = std::path::PathBuf::from("/proc/sysvipc").join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text).ok_or_else(|| Error::Proc {
            path,
            line: text.chars().take(200).collect(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Path {
            operation: "read",
            path,
            source,
        }),
    }
}

fn parse(text: &str) -> Option<Vec<Object>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
    lines
        .map(|line| {
            let values: Vec<&str> = line.split_ascii_whitespace().collect();
            let find = |wanted: &[&str]| {
                let at = names.iter().position(|name| wanted.contains(name))?;
                values.get(at).copied()
            };
            let number = |wanted: &[&str]| find(wanted)?.parse::<i64>().ok();
            let pid = |name: &str| number(&[name]).unwrap_or(0) as i32;
            Some(Object {
                key: number(&["key"])? as i32,
                id: number(&["shmid", "semid", "msqid"])? as i32,
                mode: u32::from_str_radix(find(&["perms"])?, 8).ok()?,
                uid: number(&["uid"])? as u32,
                gid: number(&["gid"])? as u32,
                cuid: number(&["cuid"])? as u32,
                cgid: number(&["cgid"])? as u32,
                size: number(&["size", "nsems", "qnum"])? as u64,
                attached: number(&["nattch"]).unwrap_or(0) as u64,
                pids: [pid("cpid") + pid("lspid"), pid("lpid") + pid("lrpid")],
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
                    -559038737          5  1640                  8192    70    71      2  1000   100     0     0 1 2 3 4096 0\n";
        let objects = parse(text).unwrap();
        assert_eq!(objects.len(), 1);
        let one = &objects[0];
        assert_eq!(
            (one.key, one.id, one.mode, one.size),
            (-559_038_737, 5, 0o1640, 8192)
        );
        assert_eq!((one.attached, one.pids, one.uid), (2, [70, 71], 1000));
        let text = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n\
                    0 3 600 10 2 80 0 1 2 3 4 5 6 7\n";
        let one = &parse(text).unwrap()[0];
        assert_eq!((one.size, one.pids), (2, [80, 0]));
    }

    #[test]
    fn the_kernel_s_own_files_are_read() {
        for file in ["shm", "sem", "msg"] {
            read(file).unwrap();
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse("key shmid perms\n1 2\n"), None);
    }
}
