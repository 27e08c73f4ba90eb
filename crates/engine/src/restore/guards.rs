//! Guards, taken out of the list of mappings and put in place when all children exist: a guard is given on at birth.

use std::ops::Range;

use cryopod_image::criu::{MmEntry, VmaEntry, vma_status as status};

use crate::error::{Error, Result};
use crate::remote::puppet::Puppet;

/// `MADV_GUARD_INSTALL` (Linux 6.13).
const MADV_GUARD_INSTALL: u64 = 102;

/// Takes the guards out of an address space.
pub fn take(pid: i32, mm: &mut MmEntry) -> Result<Vec<Range<u64>>> {
    let is_guard = |vma: &mut VmaEntry| vma.status & status::AREA_GUARD != 0;
    let guards: Vec<VmaEntry> = mm.vmas.extract_if(.., is_guard).collect();
    guards
        .iter()
        .map(|guard| {
            let aligned = (guard.start | guard.end) % cryopod_sys::memory::PAGE == 0;
            if !aligned || guard.start >= guard.end || guard.end > super::mappings::USER_END {
                let what = format!("bad guard {:#x}-{:#x}", guard.start, guard.end);
                return Err(Error::inconsistent(format!("mm-{pid}"), what));
            }
            Ok(guard.start..guard.end)
        })
        .collect()
}

/// Puts them in place.
pub fn restore(puppet: &Puppet, guards: &[Range<u64>]) -> Result<()> {
    for guard in guards {
        let args = [
            guard.start,
            guard.end - guard.start,
            MADV_GUARD_INSTALL,
            0,
            0,
            0,
        ];
        puppet.must("madvise (guard)", libc::SYS_madvise, args)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::guards::entry;

    #[test]
    fn guards_are_no_mappings() {
        let mut mm = MmEntry {
            vmas: vec![Default::default(), entry(&(0x2000..0x3000))],
            ..MmEntry::default()
        };
        assert_eq!(
            take(1, &mut mm).unwrap(),
            std::slice::from_ref(&(0x2000..0x3000))
        );
        assert_eq!(mm.vmas.len(), 1);
        mm.vmas.push(entry(&(0x2001..0x3000)));
        assert!(take(1, &mut mm).is_err());
        mm.vmas.push(entry(&(0x3000..0x3000)));
        assert!(take(1, &mut mm).is_err());
    }
}
