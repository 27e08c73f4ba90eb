//! The terminal of whoever restores: a program that leads a group of the restorer's session is in the foreground before it
//! runs, or its first read would stop it (SIGTTIN).

use std::os::fd::BorrowedFd;

use cryopod_sys::{process, tty};

use super::RestoreOptions;
use super::plan::{State, Task};
use crate::error::{Context, Result};

/// A terminal whose foreground group was changed. Dropping it changes that back.
#[derive(Debug)]
pub struct Handed {
    terminal: BorrowedFd<'static>,
    own: Option<i32>,
}

impl Handed {
    /// The program runs.
    pub fn keep(mut self) {
        self.own = None;
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(own) = self.own
            && let Err(error) = tty::set_foreground(self.terminal, own)
        {
            tracing::warn!(%error, "the terminal is not taken back");
        }
    }
}

/// Puts the root's group in the foreground where this process's own is there now, and `options` want it.
pub fn hand_over(root: &Task, options: &RestoreOptions) -> Result<Option<Handed>> {
    let joins_session = root.sid != root.pid && root.pgid == root.pid;
    let own = process::group_of(0).host("ask for its own group")?;
    let runs = root.state == State::Alive && !options.leave_stopped;
    if !options.foreground || !joins_session || !runs || own <= 0 {
        return Ok(None);
    }
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let ours = |stream: &BorrowedFd<'_>| tty::foreground(*stream) == Ok(own);
    let Some(terminal) = streams.into_iter().find(ours) else {
        return Ok(None);
    };
    tty::set_foreground(terminal, root.pgid).host("bring the program to the foreground")?;
    Ok(Some(Handed {
        terminal,
        own: Some(own),
    }))
}
