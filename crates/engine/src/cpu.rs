//! Registers between the kernel's layouts and CRIU's entries.
//!
//! The extended state is stored twice: taken apart as CRIU's images want it, and as the raw area in a field of our own
//! (`cryopod_xstate`), because CRIU's entry has no place for AMX tiles. Restore prefers the raw area where it fits this
//! processor. Layout of the area: Intel SDM, volume 1, chapters 10.5 and 13.4.

use cryopod_image::criu::{UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry};
use cryopod_sys::cpu::{component, xsave_component};
use cryopod_sys::ptrace::Regs;

use crate::error::{Error, Result};
use crate::remote::restart;

/// The legacy area and the header of an XSAVE area.
const LEGACY_BYTES: usize = 512;
const HEADER_BYTES: usize = 64;
/// Linux keeps the enabled components (XCR0) here in the legacy area, for debuggers.
const XCR0_OFFSET: usize = 464;

/// The registers with which a thread continues after a restore: an interrupted system call is made again, or ends with
/// EINTR where only the kernel that was left knew how to go on (a relative sleep).
pub fn continued(regs: &Regs) -> Regs {
    const EINTR: i64 = -4;
    let mut next = *regs;
    if (regs.orig_rax as i64) >= 0 {
        match regs.rax as i64 {
            restart::ERESTARTSYS | restart::ERESTARTNOINTR | restart::ERESTARTNOHAND => {
                next.rax = regs.orig_rax;
                next.rip -= 2;
            }
            restart::ERESTART_RESTARTBLOCK => next.rax = EINTR as u64,
            _ => {}
        }
    }
    next
}

/// CRIU's entry for general-purpose registers.
pub fn regs_entry(regs: &Regs) -> UserX86RegsEntry {
    UserX86RegsEntry {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        bp: regs.rbp,
        bx: regs.rbx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        ax: regs.rax,
        cx: regs.rcx,
        dx: regs.rdx,
        si: regs.rsi,
        di: regs.rdi,
        orig_ax: regs.orig_rax,
        ip: regs.rip,
        cs: regs.cs,
        flags: regs.eflags,
        sp: regs.rsp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        mode: Some(1),
    }
}

/// The other direction. `orig_rax` says that no system call is to be restarted: that was settled at the dump.
pub fn regs(entry: &UserX86RegsEntry) -> Regs {
    Regs {
        r15: entry.r15,
        r14: entry.r14,
        r13: entry.r13,
        r12: entry.r12,
        rbp: entry.bp,
        rbx: entry.bx,
        r11: entry.r11,
        r10: entry.r10,
        r9: entry.r9,
        r8: entry.r8,
        rax: entry.ax,
        rcx: entry.cx,
        rdx: entry.dx,
        rsi: entry.si,
        rdi: entry.di,
        orig_rax: u64::MAX,
        rip: entry.ip,
        cs: entry.cs,
        eflags: entry.flags,
        rsp: entry.sp,
        ss: entry.ss,
        fs_base: entry.fs_base,
        gs_base: entry.gs_base,
        ds: entry.ds,
        es: entry.es,
        fs: entry.fs,
        gs: entry.gs,
    }
}

fn word(area: &[u8], at: usize) -> u32 {
    area.get(at..at + 4).map_or(0, |bytes| {
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    })
}

fn long(area: &[u8], at: usize) -> u64 {
    u64::from(word(area, at)) | (u64::from(word(area, at + 4)) << 32)
}

fn words(area: &[u8], at: usize, bytes: usize) -> Vec<u32> {
    (0..bytes / 4)
        .map(|index| word(area, at + 4 * index))
        .collect()
}

fn longs(area: &[u8], at: usize, bytes: usize) -> Vec<u64> {
    (0..bytes / 8)
        .map(|index| long(area, at + 8 * index))
        .collect()
}

/// CRIU's entry for an XSAVE area.
pub fn fpregs_entry(area: &[u8]) -> UserX86FpregsEntry {
    let component_longs = |number, bytes| {
        xsave_component(number)
            .map(|place| longs(area, place.offset, place.size.min(bytes)))
            .unwrap_or_default()
    };
    let component_words = |number, bytes| {
        xsave_component(number)
            .map(|place| words(area, place.offset, place.size.min(bytes)))
            .unwrap_or_default()
    };
    // Only components that CRIU knows: it refuses an area whose bits promise more than the entry holds.
    let known = 0b11
        | [2, 3, 4, 5, 6, 7, 9]
            .iter()
            .fold(0, |bits, number| bits | 1u64 << number);
    UserX86FpregsEntry {
        cwd: word(area, 0) & 0xffff,
        swd: word(area, 0) >> 16,
        twd: word(area, 4) & 0xffff,
        fop: word(area, 4) >> 16,
        rip: long(area, 8),
        rdp: long(area, 16),
        mxcsr: word(area, 24),
        mxcsr_mask: word(area, 28),
        st_space: words(area, 32, 128),
        xmm_space: words(area, 160, 256),
        padding: Vec::new(),
        xsave: Some(UserX86XsaveEntry {
            xstate_bv: long(area, LEGACY_BYTES) & known,
            ymmh_space: component_words(component::YMM, 256),
            bndreg_state: component_longs(component::BNDREGS, 64),
            bndcsr_state: component_longs(component::BNDCSR, 64),
            opmask_reg: component_longs(component::OPMASK, 64),
            zmm_upper: component_longs(component::ZMM_HI256, 512),
            hi16_zmm: component_longs(component::HI16_ZMM, 1024),
            pkru: component_words(component::PKRU, 8),
            cet: None,
        }),
    }
}

/// An XSAVE area of this host from what an image holds. `current` is the area of the thread to be restored: it has the
/// right size and header for this processor.
pub fn xstate(current: &[u8], entry: &UserX86FpregsEntry, raw: Option<&[u8]>) -> Result<Vec<u8>> {
    if let Some(raw) = raw.filter(|raw| raw.len() == current.len()) {
        return Ok(raw.to_vec());
    }
    let mut area = vec![0; current.len()];
    let header = LEGACY_BYTES + HEADER_BYTES;
    if area.len() < header {
        return Err(Error::inconsistent(
            "core",
            "this host's extended state is too small",
        ));
    }
    area[XCR0_OFFSET..XCR0_OFFSET + 8].copy_from_slice(&current[XCR0_OFFSET..XCR0_OFFSET + 8]);
    let enabled = long(current, XCR0_OFFSET);
    for (at, value) in [
        (0, (entry.cwd & 0xffff) | (entry.swd << 16)),
        (4, (entry.twd & 0xffff) | (entry.fop << 16)),
        (24, entry.mxcsr),
    ] {
        area[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    area[28..32].copy_from_slice(&current[28..32]);
    area[8..16].copy_from_slice(&entry.rip.to_le_bytes());
    area[16..24].copy_from_slice(&entry.rdp.to_le_bytes());
    put_words(&mut area, 32, 128, &entry.st_space);
    put_words(&mut area, 160, 256, &entry.xmm_space);
    let mut present = 0b11;
    if let Some(xsave) = &entry.xsave {
        present = xsave.xstate_bv;
        if present & !enabled != 0 {
            return Err(Error::NotRestorable {
                what: format!(
                    "processor state components {:#x} that this host lacks",
                    present & !enabled
                ),
            });
        }
        let mut put = |number: u32, values: &[u32]| {
            if let Some(place) = xsave_component(number)
                && present & (1 << number) != 0
            {
                put_words(&mut area, place.offset, place.size, values);
            }
        };
        let halves = |values: &[u64]| {
            values
                .iter()
                .flat_map(|&v| [v as u32, (v >> 32) as u32])
                .collect::<Vec<_>>()
        };
        put(component::YMM, &xsave.ymmh_space);
        put(component::BNDREGS, &halves(&xsave.bndreg_state));
        put(component::BNDCSR, &halves(&xsave.bndcsr_state));
        put(component::OPMASK, &halves(&xsave.opmask_reg));
        put(component::ZMM_HI256, &halves(&xsave.zmm_upper));
        put(component::HI16_ZMM, &halves(&xsave.hi16_zmm));
        put(component::PKRU, &xsave.pkru);
    }
    area[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&present.to_le_bytes());
    Ok(area)
}

/// Writes at most `bytes` bytes of `values` at `at`, within the area.
fn put_words(area: &mut [u8], at: usize, bytes: usize, values: &[u32]) {
    let Some(place) = area.get_mut(at..at + bytes) else {
        return;
    };
    for (slot, value) in place.chunks_exact_mut(4).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_survives_the_way_through_criu_s_entry() {
        let mut area = vec![0u8; 2696];
        let enabled: u64 = 0b1110_0111;
        area[XCR0_OFFSET..XCR0_OFFSET + 8].copy_from_slice(&enabled.to_le_bytes());
        let current = area.clone();
        for (index, byte) in area[32..416].iter_mut().enumerate() {
            *byte = index as u8;
        }
        area[24..28].copy_from_slice(&0x1fa0u32.to_le_bytes());
        let mut present = 0b11u64;
        if let Some(place) =
            xsave_component(component::YMM).filter(|place| place.offset + place.size <= area.len())
        {
            area[place.offset..place.offset + place.size].fill(7);
            present |= 0b100;
        }
        area[LEGACY_BYTES..LEGACY_BYTES + 8].copy_from_slice(&present.to_le_bytes());
        assert_eq!(xstate(&current, &fpregs_entry(&area), None).unwrap(), area);
    }

    #[test]
    fn a_component_that_this_host_lacks_is_refused() {
        let current = vec![0u8; 1024];
        let mut entry = fpregs_entry(&current);
        entry.xsave.get_or_insert_default().xstate_bv = 1 << 7;
        assert!(matches!(
            xstate(&current, &entry, None),
            Err(Error::NotRestorable { .. })
        ));
    }

    #[test]
    fn a_sleep_ends_with_eintr_and_a_read_is_made_again() {
        let mut regs = Regs {
            orig_rax: 0,
            rax: -512i64 as u64,
            rip: 10,
            ..Regs::default()
        };
        assert_eq!((continued(&regs).rax, continued(&regs).rip), (0, 8));
        regs.rax = -516i64 as u64;
        assert_eq!(
            (continued(&regs).rax as i64, continued(&regs).rip),
            (-4, 10)
        );
    }
}
