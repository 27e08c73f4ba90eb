//! Seccomp: filters are installed oldest first, while the thread may still do anything. The tracer keeps them suspended
//! until the thread is let go (PTRACE_O_SUSPEND_SECCOMP).

use cryopod_image::criu::{SeccompEntry, ThreadCoreEntry};
use cryopod_image::{Kind, SetReader};
use cryopod_sys::Errno;

use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

const STRICT: i32 = 1;
const FILTER: i32 = 2;
/// seccomp(2): SECCOMP_SET_MODE_FILTER.
const SET_MODE_FILTER: u64 = 1;
/// SECCOMP_FILTER_FLAG_TSYNC.
const TSYNC: u64 = 1;
/// The kernel's own limit on instructions of one filter (BPF_MAXINSNS), times 8 bytes.
const LARGEST_FILTER: usize = 4096 * 8;

/// Installs the oldest filters, as far as all threads of a process have them alike, in all of them at once: only filters
/// that are the same to the kernel can be added to by one thread for all (SECCOMP_FILTER_FLAG_TSYNC). Returns how many.
pub fn share(
    set: &SetReader,
    puppet: &Puppet,
    mem: &Mem,
    threads: &[&ThreadCoreEntry],
) -> Result<usize> {
    let is_filtered = |core: &&ThreadCoreEntry| core.seccomp_mode == Some(FILTER);
    if threads.len() < 2 || !threads.iter().all(is_filtered) {
        return Ok(0);
    }
    let image: SeccompEntry = set.read_one(Kind::Seccomp, None)?;
    let chains = threads
        .iter()
        .map(|core| oldest_first(&image, core.seccomp_filter))
        .collect::<Result<Vec<_>>>()?;
    let alike = alike(&chains);
    for &filter in &alike {
        install(puppet, mem, &image.seccomp_filters[filter].filter, TSYNC)?;
    }
    Ok(alike.len())
}

/// What all chains begin with.
fn alike(chains: &[Vec<usize>]) -> Vec<usize> {
    let Some((first, others)) = chains.split_first() else {
        return Vec::new();
    };
    let count = first
        .iter()
        .enumerate()
        .take_while(|(place, filter)| others.iter().all(|chain| chain.get(*place) == Some(filter)))
        .count();
    first[..count].to_vec()
}

/// Installs what the thread had, apart from the `shared` oldest filters, which it has already.
pub fn restore(
    set: &SetReader,
    puppet: &Puppet,
    mem: &Mem,
    core: &ThreadCoreEntry,
    shared: usize,
) -> Result<()> {
    match core.seccomp_mode.unwrap_or(0) {
        STRICT => {
            let args = [libc::PR_SET_SECCOMP as u64, STRICT as u64, 0, 0, 0, 0];
            puppet
                .must("prctl (seccomp)", libc::SYS_prctl, args)
                .map(drop)
        }
        FILTER => {
            let image: SeccompEntry = set.read_one(Kind::Seccomp, None)?;
            let chain = oldest_first(&image, core.seccomp_filter)?;
            for filter in chain.into_iter().skip(shared) {
                install(puppet, mem, &image.seccomp_filters[filter].filter, 0)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn oldest_first(image: &SeccompEntry, newest: Option<u32>) -> Result<Vec<usize>> {
    let mut chain = chain(image, newest)?;
    chain.reverse();
    Ok(chain)
}

/// The filters of a thread, newest first.
fn chain(image: &SeccompEntry, newest: Option<u32>) -> Result<Vec<usize>> {
    let mut chain = Vec::new();
    let mut next = newest;
    while let Some(index) = next {
        let entry = image
            .seccomp_filters
            .get(index as usize)
            .filter(|_| chain.len() < image.seccomp_filters.len());
        let entry = entry.ok_or_else(|| {
            Error::inconsistent("seccomp", format!("no end of filters from {index} on"))
        })?;
        chain.push(index as usize);
        next = entry.prev;
    }
    Ok(chain)
}

fn install(puppet: &Puppet, mem: &Mem, filter: &[u8], flags: u64) -> Result<()> {
    if !filter.len().is_multiple_of(8) || filter.len() > LARGEST_FILTER {
        return Err(Error::inconsistent(
            "seccomp",
            "a filter of an impossible length",
        ));
    }
    // struct sock_fprog: length in instructions, padding, pointer.
    let mut program = ((filter.len() / 8) as u64).to_ne_bytes().to_vec();
    program.extend((puppet.data() + 16).to_ne_bytes());
    program.extend(filter);
    let at = puppet.put(mem, &program)?;
    let args = [SET_MODE_FILTER, flags, at, 0, 0, 0];
    match puppet.must("seccomp (filter)", libc::SYS_seccomp, args)? {
        0 => Ok(()),
        // The first thread that it could not be installed in.
        tid => Err(Error::Remote {
            call: "seccomp (filter of all threads)",
            pid: tid as i32,
            source: Errno::BUSY,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod_image::criu::SeccompFilter;

    #[test]
    fn threads_have_the_oldest_filters_alike() {
        let alike = |chains: &[&[usize]]| {
            let chains: Vec<Vec<usize>> = chains.iter().map(|chain| chain.to_vec()).collect();
            super::alike(&chains)
        };
        assert_eq!(alike(&[&[0, 1, 2], &[0, 1], &[0, 1, 3]]), [0, 1]);
        assert_eq!(alike(&[&[0], &[1]]), []);
        assert_eq!(alike(&[&[0, 1], &[]]), []);
    }

    #[test]
    fn a_chain_that_bites_its_tail_is_refused() {
        let filter = |prev| SeccompFilter {
            prev,
            ..SeccompFilter::default()
        };
        let image = SeccompEntry {
            seccomp_filters: vec![filter(None), filter(Some(0))],
        };
        assert_eq!(chain(&image, Some(1)).unwrap(), [1, 0]);
        let ring = SeccompEntry {
            seccomp_filters: vec![filter(Some(1)), filter(Some(0))],
        };
        assert!(chain(&ring, Some(0)).is_err());
        assert!(chain(&image, Some(7)).is_err());
    }
}
