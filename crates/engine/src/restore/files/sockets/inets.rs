//! All internet sockets of a tree: who comes first, and the lock that keeps the packets of connections away.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cryopod_image::criu::{FileEntry, InventoryEntry, PstreeEntry};
use cryopod_image::{Kind, SetReader};

use super::datagrams;
use super::inet::{self, Made};
use super::tcp::{self, Stream};
use crate::dump::Connections;
use crate::error::{Error, Result};
use crate::net::iptables;
use crate::net::lock::{self, Connection, Lock};
use crate::restore::RestoreOptions;

/// All internet sockets of a tree.
#[derive(Debug, Default)]
pub struct Inets {
    inet: Vec<Made>,
    /// What the dump did about connections.
    dumped: Locked,
    /// Keeps packets of connections away until they are complete.
    lock: Option<Lock>,
    /// Whether connections are under repair.
    under_repair: bool,
}

/// How a dump has locked connections.
#[derive(Debug, Default)]
struct Locked {
    /// The table of nf_tables, if that is how.
    table: String,
    /// Whether criu did it with iptables(8).
    by_iptables: bool,
    /// Whether the checkpoint was made without its connections.
    without_connections: bool,
}

impl Locked {
    fn read(set: &SetReader) -> Result<Self> {
        const IPTABLES: u32 = 0;
        let inventory: InventoryEntry = set.read_one(Kind::Inventory, None)?;
        let table = match &inventory.dump_criu_run_id {
            Some(id) => lock::table_name(id),
            None => {
                let tree: Vec<PstreeEntry> = set.read_all(Kind::Pstree, None)?;
                lock::old_table_name(tree.first().map_or(0, |root| root.pid as i32))
            }
        };
        Ok(Self {
            table,
            by_iptables: inventory.network_lock_method.unwrap_or(IPTABLES) == IPTABLES,
            without_connections: inventory.tcp_close == Some(true),
        })
    }

    fn unlock(&self, connections: &[Connection]) {
        match lock::remove(&self.table) {
            Ok(was_there) => tracing::debug!(table = self.table, was_there, "connections unlocked"),
            Err(error) => tracing::warn!(%error, "connections may still be locked"),
        }
        if self.by_iptables {
            iptables::unlock(connections);
        }
    }
}

impl Inets {
    /// Reads what images say of the internet sockets among `entries`, and checks it.
    pub fn load(set: &SetReader, entries: &BTreeMap<u32, FileEntry>) -> Result<Self> {
        let mut inets = Self::default();
        for entry in entries.values().filter_map(|entry| entry.isk.as_deref()) {
            inet::check(entry)?;
            if inet::is_connection(entry) && inets.dumped.table.is_empty() {
                inets.dumped = Locked::read(set)?;
            }
        }
        Ok(inets)
    }

    /// Makes all sockets, as far as it can be done before the tree exists. `keep` gets each with the id of its entry.
    pub fn open(
        &mut self,
        set: &SetReader,
        entries: &BTreeMap<u32, FileEntry>,
        options: &RestoreOptions,
        keep: &mut impl FnMut(u32, OwnedFd) -> Result<()>,
    ) -> Result<()> {
        for entry in entries.values().filter_map(|entry| entry.isk.as_deref()) {
            let made = inet::make(entry)?;
            if !inet::is_connection(entry) {
                made.bind(&self.inet)?;
                made.connect()?;
                made.join()?;
            }
            keep(entry.id, made.duplicate()?)?;
            self.inet.push(made);
        }
        self.connect(set, options.connections)
    }

    /// Connections, when everything else is bound: they share their addresses with listeners.
    fn connect(&mut self, set: &SetReader, wanted: Connections) -> Result<()> {
        let ends = self.connections().map(Made::ends);
        let ends = ends.collect::<Result<Vec<Connection>>>()?;
        let Some(&(local, peer)) = ends.first() else {
            return Ok(());
        };
        match wanted {
            Connections::Close => self.connections().try_for_each(Made::close),
            Connections::Keep if !self.dumped.without_connections => {
                let name = lock::new_run_id()?;
                match Lock::take(&format!("cryopod-{name}"), &ends) {
                    Ok(lock) => self.lock = Some(lock),
                    Err(error) => tracing::warn!(%error, "connections are restored unlocked"),
                }
                self.under_repair = true;
                for made in self.connections() {
                    let stream = Stream::read(set, made.entry.ino, made.entry.state)?;
                    tcp::restore(made, &stream)?;
                }
                Ok(())
            }
            _ => Err(Error::Connection { local, peer }),
        }
    }

    fn connections(&self) -> impl Iterator<Item = &Made> {
        self.inet
            .iter()
            .filter(|made| inet::is_connection(&made.entry))
    }

    /// Completes them: what waits in them, listening, options, shutdown. When all pids of the tree exist, and before files
    /// get owners.
    pub fn finish(&self, set: &SetReader) -> Result<()> {
        datagrams::restore(set, &self.inet)?;
        self.inet.iter().try_for_each(Made::finish)
    }

    /// Makes connections ordinary ones, whose packets get through. The last thing before the tree runs.
    pub fn resume(mut self) -> Result<()> {
        let ends = self.connections().map(Made::ends);
        let ends = ends.collect::<Result<Vec<Connection>>>()?;
        if ends.is_empty() {
            return Ok(());
        }
        self.lock = None;
        if !self.dumped.without_connections {
            self.dumped.unlock(&ends);
        }
        if self.under_repair {
            self.connections().try_for_each(tcp::release)?;
        }
        Ok(())
    }
}
