//! Ways home: what a visited thread does if cryopod dies while it makes a call on cryopod's behalf.

use cryopod_sys::ptrace::Regs;

use super::restart;
use super::visit::SCRATCH_BYTES;

/// Room for one way home.
pub const WAY_BYTES: usize = 192;
pub const WAYS: usize = 3;
/// What a visit needs behind the end of the vdso.
pub const ROOM_BYTES: usize = WAY_BYTES * WAYS;

/// Where the thread continues if it has to go home alone.
#[derive(Clone, Copy)]
pub enum Undo {
    /// munmap what the call itself returned.
    UnmapResult,
    /// munmap the scratch page at this address.
    Unmap(u64),
    /// close the descriptor that the call itself returned, and munmap the scratch page at this address, if there is one.
    CloseResult(Option<u64>),
    /// Nothing.
    Nothing,
}

/// Who comes out of the call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// The thread that went in.
    Caller,
    /// That one, and with zero in rax a copy of the process, which must not go on.
    Copy,
}

/// What a copy says that comes to its end alone.
pub const COPY_EXIT_CODE: u8 = 197;

/// Where a copy finds a `syscall` instruction, from the start of its way: it leads to the copy's end, whatever the call
/// gives.
pub const COPY_GATE: u64 = 19;

/// The registers with which a thread that goes home alone continues: what the kernel would have made of an interrupted
/// system call on the way back to user mode.
pub fn resumed(original: &Regs) -> Regs {
    const RESTART_SYSCALL: u64 = 219;
    let mut regs = *original;
    if (regs.orig_rax as i64) >= 0 {
        let number = match regs.rax as i64 {
            restart::ERESTARTSYS | restart::ERESTARTNOINTR | restart::ERESTARTNOHAND => {
                regs.orig_rax
            }
            restart::ERESTART_RESTARTBLOCK => RESTART_SYSCALL,
            _ => return regs,
        };
        regs.rax = number;
        regs.rip -= 2;
    }
    regs
}

/// `syscall`, the undo, rt_sigprocmask(SIG_SETMASK), every register that a system call or this code changes, a jump.
/// The flags need nothing: SYSCALL and SYSRET keep them, and mov and jmp do not touch them.
pub fn way_home(regs: &Regs, mask: u64, undo: Undo, leaves: Leaves) -> Vec<u8> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let mut code = Vec::with_capacity(WAY_BYTES);
    let imm64 = |code: &mut Vec<u8>, opcode: [u8; 2], value: u64| {
        code.extend_from_slice(&opcode);
        code.extend_from_slice(&value.to_le_bytes());
    };
    code.extend_from_slice(&SYSCALL);
    if leaves == Leaves::Copy {
        code.extend_from_slice(&[0x48, 0x89, 0xc1]); // mov rcx, rax
        code.extend_from_slice(&[0xe3, 0x02]); // jrcxz over the next jump; it leaves the flags alone
        code.extend_from_slice(&[0xeb, 0x0e]); // jmp over the end
        code.extend_from_slice(&[0xbf, COPY_EXIT_CODE, 0, 0, 0]); // mov edi, COPY_EXIT_CODE
        code.extend_from_slice(&[0xb8, 231, 0, 0, 0]); // mov eax, exit_group
        assert_eq!(
            code.len(),
            COPY_GATE as usize,
            "where calls of the copy are made"
        );
        code.extend_from_slice(&SYSCALL);
        code.extend_from_slice(&[0xeb, 0xf2]); // jmp back to the end
    }
    if let Undo::CloseResult(_) = undo {
        code.extend_from_slice(&[0x48, 0x89, 0xc7]); // mov rdi, rax
        code.extend_from_slice(&[0xb8, 3, 0, 0, 0]); // mov eax, close
        code.extend_from_slice(&SYSCALL);
    }
    let unmap = match undo {
        Undo::UnmapResult => {
            code.extend_from_slice(&[0x48, 0x89, 0xc7]); // mov rdi, rax
            true
        }
        Undo::Unmap(address) | Undo::CloseResult(Some(address)) => {
            imm64(&mut code, [0x48, 0xbf], address); // mov rdi, address
            true
        }
        Undo::CloseResult(None) | Undo::Nothing => false,
    };
    if unmap {
        code.push(0xbe); // mov esi, SCRATCH_BYTES
        code.extend_from_slice(&(SCRATCH_BYTES as u32).to_le_bytes());
        code.extend_from_slice(&[0xb8, 11, 0, 0, 0]); // mov eax, munmap
        code.extend_from_slice(&SYSCALL);
    }
    code.extend_from_slice(&[0xb8, 14, 0, 0, 0]); // mov eax, rt_sigprocmask
    code.extend_from_slice(&[0xbf, 2, 0, 0, 0]); // mov edi, SIG_SETMASK
    code.extend_from_slice(&[0x48, 0x8d, 0x35]); // lea rsi, [rip + to the mask]
    let lea = code.len();
    code.extend_from_slice(&[0; 4]);
    code.extend_from_slice(&[0xba, 0, 0, 0, 0]); // mov edx, 0
    code.extend_from_slice(&[0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    code.extend_from_slice(&SYSCALL);
    for (opcode, value) in [
        ([0x48, 0xb8], regs.rax),
        ([0x48, 0xb9], regs.rcx),
        ([0x48, 0xba], regs.rdx),
        ([0x48, 0xbe], regs.rsi),
        ([0x48, 0xbf], regs.rdi),
        ([0x49, 0xb8], regs.r8),
        ([0x49, 0xb9], regs.r9),
        ([0x49, 0xba], regs.r10),
        ([0x49, 0xbb], regs.r11),
    ] {
        imm64(&mut code, opcode, value);
    }
    code.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]); // jmp [rip + 0]
    code.extend_from_slice(&regs.rip.to_le_bytes());
    let to_mask = (code.len() - (lea + 4)) as u32;
    code[lea..lea + 4].copy_from_slice(&to_mask.to_le_bytes());
    code.extend_from_slice(&mask.to_le_bytes());
    assert!(code.len() <= WAY_BYTES, "a way home must fit its place");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_home_fits_its_place() {
        for undo in [
            Undo::UnmapResult,
            Undo::Unmap(0x7fff_ffff_f000),
            Undo::Nothing,
        ] {
            for leaves in [Leaves::Caller, Leaves::Copy] {
                let code = way_home(&Regs::default(), u64::MAX, undo, leaves);
                assert!(code.len() <= WAY_BYTES);
                assert_eq!(code[..2], [0x0f, 0x05]);
                assert_eq!(code[code.len() - 8..], u64::MAX.to_le_bytes());
            }
        }
    }

    #[test]
    fn a_way_that_closes_fits_its_place() {
        let undo = Undo::CloseResult(Some(0x7fff_ffff_f000));
        let code = way_home(&Regs::default(), u64::MAX, undo, Leaves::Caller);
        assert!(code.len() <= WAY_BYTES);
    }

    #[test]
    fn an_interrupted_call_is_restarted() {
        let mut regs = Regs {
            orig_rax: 7,
            rax: -512i64 as u64,
            rip: 100,
            ..Regs::default()
        };
        assert_eq!((resumed(&regs).rax, resumed(&regs).rip), (7, 98));
        regs.rax = -516i64 as u64;
        assert_eq!(resumed(&regs).rax, 219);
        regs.orig_rax = u64::MAX;
        assert_eq!(resumed(&regs), regs);
    }
}
