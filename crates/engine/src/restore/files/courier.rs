//! The way by which a task gets a description that cryopod opened after the task was born: a pair of connected sockets,
//! one of which every task has inherited. A description sent over it (SCM_RIGHTS, unix(7)) is the same one in all of them.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::{raise, tables};
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// The pair: our end, and that of the tasks.
#[derive(Debug, Default)]
pub struct Courier {
    ends: Option<(OwnedFd, OwnedFd)>,
}

impl Courier {
    /// Makes the pair, at numbers of at least `base`.
    pub fn start(&mut self, base: i32) -> Result<()> {
        let kind = SocketType::DGRAM;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                .host("make a pair of sockets")?;
        self.ends = Some((raise(ours, base)?, raise(theirs, base)?));
        Ok(())
    }

    /// Gives a task a description under the number `fd`.
    pub fn hand(
        &self,
        puppet: &Puppet,
        mem: &Mem,
        file: BorrowedFd<'_>,
        fd: u32,
        close_on_exec: bool,
    ) -> Result<()> {
        let Some((ours, theirs)) = &self.ends else {
            let what = "a file that exists only with the tree";
            return Err(Error::NotRestorable { what: what.into() });
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file];
        control.push(SendAncillaryMessage::ScmRights(&files));
        rustix::net::sendmsg(
            ours,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::empty(),
        )
        .host("send a descriptor")?;
        let got = receive(puppet, mem, theirs.as_fd())?;
        if got != fd {
            tables::place(puppet, got as i32, fd, close_on_exec)?;
            puppet.must("close", libc::SYS_close, [got.into(), 0, 0, 0, 0, 0])?;
        } else if close_on_exec {
            let args = [
                got.into(),
                libc::F_SETFD as u64,
                libc::FD_CLOEXEC as u64,
                0,
                0,
                0,
            ];
            puppet.must("fcntl (F_SETFD)", libc::SYS_fcntl, args)?;
        }
        Ok(())
    }
}

/// recvmsg(2) in a task. Gives the number of the descriptor that came.
fn receive(puppet: &Puppet, mem: &Mem, socket: BorrowedFd<'_>) -> Result<u32> {
    // struct msghdr, then what it points to: an iovec, a byte, and room for one control message with a descriptor.
    const HEADER: u64 = 56;
    const VECTOR: u64 = 16;
    const BYTE: u64 = 8;
    const CONTROL: usize = 24;
    const RIGHT: u64 = 16;
    let at = puppet.data();
    let (vector, byte) = (at + HEADER, at + HEADER + VECTOR);
    let control = byte + BYTE;
    let words = [
        0,
        0,
        vector,
        1,
        control,
        CONTROL as u64,
        0,
        byte,
        1,
        0,
        0,
        0,
        0,
    ];
    let mut message: Vec<u8> = words
        .iter()
        .flat_map(|word: &u64| word.to_ne_bytes())
        .collect();
    // No descriptor at all unless the kernel writes one.
    message[(control - at + RIGHT) as usize..][..4].copy_from_slice(&(-1i32).to_ne_bytes());
    puppet.put(mem, &message)?;
    let args = [socket.as_raw_fd() as u64, at, 0, 0, 0, 0];
    puppet.must("recvmsg", libc::SYS_recvmsg, args)?;
    let mut number = [0; 4];
    mem.read(control + RIGHT, &mut number)?;
    u32::try_from(i32::from_ne_bytes(number)).map_err(|_| Error::Ended {
        pid: puppet.pid,
        during: "given a descriptor",
    })
}
