//! Seccomp: filters are installed oldest first, while the thread may still do anything. The tracer keeps them suspended
//! until the thread is let go (PTRACE_O_SUSPEND_SECCOMP).

use cryopod_image::criu::{SeccompEntry, ThreadCoreEntry};
use cryopod_image::{Kind, SetReader};

use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

const STRICT: i32 = 1;
const FILTER: i32 = 2;
/// seccomp(2): SECCOMP_SET_MODE_FILTER.
const SET_MODE_FILTER: u64 = 1;
/// The kernel's own limit on instructions of one filter (BPF_MAXINSNS), times 8 bytes.
const LARGEST_FILTER: usize = 4096 * 8;

/// Installs what the thread had.
pub fn restore(set: &SetReader, puppet: &Puppet, mem: &Mem, core: &ThreadCoreEntry) -> Result<()> {
    match core.seccomp_mode.unwrap_or(0) {
        STRICT => {
            let args = [libc::PR_SET_SECCOMP as u64, STRICT as u64, 0, 0, 0, 0];
            puppet
                .must("prctl (seccomp)", libc::SYS_prctl, args)
                .map(drop)
        }
        FILTER => {
            let image: SeccompEntry = set.read_one(Kind::Seccomp, None)?;
            for filter in chain(&image, core.seccomp_filter)?.into_iter().rev() {
                install(puppet, mem, &image.seccomp_filters[filter].filter)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
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

fn install(puppet: &Puppet, mem: &Mem, filter: &[u8]) -> Result<()> {
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
    puppet
        .must(
            "seccomp (filter)",
            libc::SYS_seccomp,
            [SET_MODE_FILTER, 0, at, 0, 0, 0],
        )
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod_image::criu::SeccompFilter;

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
