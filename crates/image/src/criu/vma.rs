//! One mapping of an address space, the line of `/proc/PID/maps` and what `smaps` adds to it.

/// One mapping.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct VmaEntry {
    #[prost(uint64, required, tag = "1")]
    pub start: u64,
    /// First address behind it.
    #[prost(uint64, required, tag = "2")]
    pub end: u64,
    /// Offset into the file, in bytes.
    #[prost(uint64, required, tag = "3")]
    pub pgoff: u64,
    /// Id of the file ([`RegFileEntry`](super::RegFileEntry), ...) or of the shared memory segment mapped, 0 if
    /// private and anonymous.
    #[prost(uint64, required, tag = "4")]
    pub shmid: u64,
    /// `PROT_*` bits.
    #[prost(uint32, required, tag = "5")]
    pub prot: u32,
    /// `MAP_*` bits.
    #[prost(uint32, required, tag = "6")]
    pub flags: u32,
    /// [`vma_status`] bits: what is mapped.
    #[prost(uint32, required, tag = "7")]
    pub status: u32,
    /// Unused, -1.
    #[prost(sint64, required, tag = "8")]
    pub fd: i64,
    /// Advice in force: bit N stands for `madvise(2)` number N.
    #[prost(uint64, optional, tag = "9")]
    pub madv: Option<u64>,
    /// Open flags of the mapped file.
    #[prost(uint32, optional, tag = "10")]
    pub fdflags: Option<u32>,
    /// Ours, ignored by criu: what no other field tells, see [`vma_extra`].
    #[prost(uint32, optional, tag = "20001")]
    pub cryopod_extra: Option<u32>,
}

/// Bits of [`VmaEntry::status`]: what a mapping is.
pub mod vma_status {
    /// To be dumped and restored, unlike what the kernel itself maps.
    pub const AREA_REGULAR: u32 = 1 << 0;
    /// Used as a stack.
    pub const AREA_STACK: u32 = 1 << 1;
    /// The fixed vsyscall page.
    pub const AREA_VSYSCALL: u32 = 1 << 2;
    /// The vdso.
    pub const AREA_VDSO: u32 = 1 << 3;
    /// The heap below brk; for information.
    pub const AREA_HEAP: u32 = 1 << 5;
    /// A file mapped privately.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// A file mapped shared.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared anonymous memory.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// Private anonymous memory.
    pub const ANON_PRIVATE: u32 = 1 << 9;
    /// System V shared memory.
    pub const AREA_SYSVIPC: u32 = 1 << 10;
    /// Memory of a socket (packet rings).
    pub const AREA_SOCKET: u32 = 1 << 11;
    /// The data pages of the vdso.
    pub const AREA_VVAR: u32 = 1 << 12;
    /// An asynchronous I/O ring.
    pub const AREA_AIORING: u32 = 1 << 13;
    /// A memfd.
    pub const AREA_MEMFD: u32 = 1 << 14;
    /// A shadow stack.
    pub const AREA_SHSTK: u32 = 1 << 15;
    /// Not a mapping of its own: a range guarded with `MADV_GUARD_INSTALL`.
    pub const AREA_GUARD: u32 = 1 << 16;
    /// The `[uprobes]` mapping of the kernel.
    pub const AREA_UPROBES: u32 = 1 << 17;
    /// Handled by a criu plugin.
    pub const EXT_PLUGIN: u32 = 1 << 27;
}

/// Bits of [`VmaEntry::cryopod_extra`].
pub mod vma_extra {
    /// Counted against the commit limit (VmFlags `ac`): it is or once was writable.
    pub const ACCOUNTED: u32 = 1 << 0;
    /// Locked page by page on first touch (VmFlags `lf`, `MLOCK_ONFAULT`).
    pub const LOCKED_ON_FAULT: u32 = 1 << 1;
}
