//! Mappings whose place the kernel insists on choosing itself (those of io_uring instances): it is left no choice.
//!
//! mmap(2) and mremap(2) refuse any address for such files. So everything that is free but the wanted place is filled
//! for a moment with mappings that cost nothing.

use std::ops::Range;

use cryopod_image::criu::VmaEntry;
use cryopod_sys::memory::PAGE;

use super::mappings::USER_END;
use crate::error::{Error, Result};
use crate::proc::maps;
use crate::remote::puppet::Puppet;

/// Maps `fd` where `vma` says.
pub fn map(puppet: &Puppet, vma: &VmaEntry, flags: u32, fd: i64) -> Result<()> {
    let wanted = vma.start..vma.end;
    let used: Vec<Range<u64>> = maps::read(puppet.pid)?
        .iter()
        .map(|mapping| mapping.start..mapping.end)
        .collect();
    let fillers = gaps(&used, &wanted);
    for filler in &fillers {
        fill(puppet, filler)?;
    }
    let args = [
        0,
        wanted.end - wanted.start,
        u64::from(vma.prot),
        u64::from(flags),
        fd as u64,
        vma.pgoff,
    ];
    let at = puppet.must("mmap", libc::SYS_mmap, args)?;
    for filler in &fillers {
        let args = [filler.start, filler.end - filler.start, 0, 0, 0, 0];
        puppet.must("munmap", libc::SYS_munmap, args)?;
    }
    if at == wanted.start {
        return Ok(());
    }
    Err(Error::NotRestorable {
        what: format!(
            "pid {}: an io_uring instance mapped at {:#x}, where this kernel maps none",
            puppet.pid, wanted.start
        ),
    })
}

/// Where everybody may map something, whatever vm.mmap_min_addr is.
const LOWEST: u64 = 0x1_0000;

fn fill(puppet: &Puppet, range: &Range<u64>) -> Result<()> {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let args = [
        range.start,
        range.end - range.start,
        libc::PROT_NONE as u64,
        flags as u64,
        u64::MAX,
        0,
    ];
    let filled = puppet.must("mmap (a place to be left out)", libc::SYS_mmap, args);
    match filled {
        // The lowest addresses need a capability (CAP_SYS_RAWIO), for the kernel to choose them as well.
        Err(_) if range.start < LOWEST && range.end > LOWEST => fill(puppet, &(LOWEST..range.end)),
        filled => filled.map(drop),
    }
}

/// Everything between the used ranges, which are in order, but the wanted one.
fn gaps(used: &[Range<u64>], wanted: &Range<u64>) -> Vec<Range<u64>> {
    let mut taken: Vec<Range<u64>> = used
        .iter()
        .filter(|range| range.start < USER_END)
        .cloned()
        .chain([wanted.clone(), USER_END..USER_END])
        .collect();
    taken.sort_by_key(|range| range.start);
    let mut gaps = Vec::new();
    // The first page belongs to nobody.
    let mut at = PAGE;
    for range in taken {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_wanted_place_is_filled() {
        let used = [
            0x5000..0x9000,
            0xa000..0xb000,
            0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000,
        ];
        assert_eq!(
            gaps(&used, &(0x9000..0xa000)),
            [0x1000..0x5000, 0xb000..USER_END]
        );
        assert_eq!(
            gaps(&used, &(0xc000..0xd000)),
            [
                0x1000..0x5000,
                0x9000..0xa000,
                0xb000..0xc000,
                0xd000..USER_END
            ]
        );
        assert_eq!(gaps(&[], &(PAGE..USER_END)), []);
    }
}
