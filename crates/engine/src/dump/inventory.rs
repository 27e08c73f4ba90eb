//! What a set holds and who belongs to whom: inventory.img, pstree.img and the images there is one of.

use cryopod_image::Kind;
use cryopod_image::criu::{InventoryEntry, PstreeEntry, TimensEntry, Timespec};

use super::process::World;
use super::{Connections, DumpOptions, NetworkLock, ids};
use crate::error::{Error, Result, Unsupported};
use crate::freeze::{Frozen, FrozenProcess};
use crate::proc::stat;

/// The format's version. 2 allows pages to be stored per namespace id; nothing newer is needed.
const IMG_VERSION: u32 = 2;

/// How connections were locked, in criu's numbers. The first is what criu has where there are none.
mod lock_method {
    pub const IPTABLES: u32 = 0;
    pub const NFTABLES: u32 = 1;
    pub const SKIP: u32 = 2;
}

/// What a set and those that it goes with are known by.
pub struct Line {
    /// Of a dump that has locked connections.
    pub run_id: Option<String>,
    /// By whoever builds on it.
    pub id: Option<String>,
    /// What it builds on.
    pub parent_id: Option<String>,
}

/// Writes them.
pub fn dump(
    world: &mut World<'_>,
    frozen: &Frozen,
    options: &DumpOptions,
    line: Line,
) -> Result<()> {
    let run_id = line.run_id;
    check_leaders(frozen, options)?;
    let mut tree = world.set.entries(Kind::Pstree, None)?;
    for one in frozen.processes() {
        let stat = stat::read(one.pid)?;
        let threads = if one.zombie {
            vec![one.pid as u32]
        } else {
            let ended = one.leader_ended.then_some(&one.pid);
            let threads = ended.into_iter().chain(&one.threads);
            threads.map(|&tid| tid as u32).collect()
        };
        tree.push(&PstreeEntry {
            pid: one.pid as u32,
            ppid: if one.pid == frozen.root() {
                0
            } else {
                one.ppid as u32
            },
            pgid: stat.pgrp as u32,
            sid: stat.session as u32,
            threads,
        })?;
    }
    tree.finish()?;
    world.set.write_one(
        Kind::Inventory,
        None,
        &InventoryEntry {
            img_version: IMG_VERSION,
            fdinfo_per_id: Some(true),
            ns_per_id: Some(true),
            // Cryopod's own ids: all that a reader takes from them is that the tree lives in the same namespaces.
            root_ids: Some(ids::namespaces()),
            root_cg_set: Some(world.cgroups.own()?),
            lsmtype: Some(0),
            dump_uptime: Some(uptime_ns() / 1000),
            tcp_close: Some(options.tcp.connections == Connections::Close),
            network_lock_method: Some(match (&run_id, options.tcp.lock) {
                (Some(_), _) => lock_method::NFTABLES,
                (None, NetworkLock::Skip) => lock_method::SKIP,
                (None, NetworkLock::Nftables) => lock_method::IPTABLES,
            }),
            dump_criu_run_id: run_id,
            cryopod_id: line.id,
            cryopod_parent_id: line.parent_id,
            ..InventoryEntry::default()
        },
    )?;
    let (monotonic, boottime) = (
        clock(rustix::time::ClockId::Monotonic),
        clock(rustix::time::ClockId::Boottime),
    );
    world.set.write_one(
        Kind::Timens,
        Some(0),
        &TimensEntry {
            monotonic,
            boottime,
        },
    )?;
    Ok(())
}

fn clock(id: rustix::time::ClockId) -> Timespec {
    let now = rustix::time::clock_gettime(id);
    Timespec {
        tv_sec: now.tv_sec as u64,
        tv_nsec: now.tv_nsec as u64,
    }
}

fn uptime_ns() -> u64 {
    let now = clock(rustix::time::ClockId::Boottime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A root that is no session leader belongs to a session outside, which cannot be joined again: its leader's terminal
/// and job control stay behind. That has to be asked for.
fn check_leaders(frozen: &Frozen, options: &DumpOptions) -> Result<()> {
    if options.shell_job {
        return Ok(());
    }
    let Some(root) = frozen.processes().first() else {
        return Ok(());
    };
    let stat = stat::read(root.pid)?;
    let leads = |pid: i32| {
        frozen
            .processes()
            .iter()
            .any(|one: &FrozenProcess| one.pid == pid)
    };
    if leads(stat.session) {
        return Ok(());
    }
    Err(Error::Unsupported(vec![Unsupported {
        pid: root.pid,
        fd: None,
        what: format!(
            "belongs to session {}, whose leader is outside the tree (allow with --shell-job)",
            stat.session
        ),
    }]))
}
