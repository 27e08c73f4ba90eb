//! inventory.img: what the whole image set is, and the kernel objects of its root task.

/// Which Linux security module was in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum LsmType {
    NoLsm = 0,
    Selinux = 1,
    Apparmor = 2,
}

/// Names of the criu plugins that took part; wrapped so that "none" differs from "not recorded".
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PluginsEntry {
    #[prost(string, repeated, tag = "12")]
    pub plugins: Vec<String>,
}

/// The one entry of inventory.img.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct InventoryEntry {
    /// Format version, 2: every file but this one begins with the common magic.
    #[prost(uint32, required, tag = "1")]
    pub img_version: u32,
    /// fdinfo files are named by files_id rather than by pid; true today.
    #[prost(bool, optional, tag = "2")]
    pub fdinfo_per_id: Option<bool>,
    /// Kernel objects of the root task; those it shares with criu itself were not dumped.
    #[prost(message, optional, tag = "3")]
    pub root_ids: Option<super::TaskKobjIdsEntry>,
    /// Namespace files are named by namespace id rather than by pid; true today.
    #[prost(bool, optional, tag = "4")]
    pub ns_per_id: Option<bool>,
    /// Control group set of the dumping process itself.
    #[prost(uint32, optional, tag = "5")]
    pub root_cg_set: Option<u32>,
    #[prost(enumeration = "LsmType", optional, tag = "6")]
    pub lsmtype: Option<i32>,
    /// Time since boot when the dump was made, in microseconds.
    #[prost(uint64, optional, tag = "8")]
    pub dump_uptime: Option<u64>,
    /// 1 spliced through the target, 2 read with `process_vm_readv(2)`.
    #[prost(uint32, optional, tag = "9")]
    pub pre_dump_mode: Option<u32>,
    /// TCP connections were dumped as closed.
    #[prost(bool, optional, tag = "10")]
    pub tcp_close: Option<bool>,
    /// 0 iptables, 1 nftables, 2 none.
    #[prost(uint32, optional, tag = "11")]
    pub network_lock_method: Option<u32>,
    #[prost(message, optional, tag = "12")]
    pub plugins_entry: Option<PluginsEntry>,
    /// Unique name of the dumping run; part of the name of its nftables table.
    #[prost(string, optional, tag = "13")]
    pub dump_criu_run_id: Option<String>,
    /// Mappings made by uprobes were accepted.
    #[prost(bool, optional, tag = "14")]
    pub allow_uprobes: Option<bool>,
    /// What this set is known by to those that build on it.
    #[prost(string, optional, tag = "20001")]
    pub cryopod_id: Option<String>,
    /// `cryopod_id` of the set that this one builds on.
    #[prost(string, optional, tag = "20002")]
    pub cryopod_parent_id: Option<String>,
}
