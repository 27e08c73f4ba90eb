//! core-PID.img: the state of one thread; that of the group leader carries the state of the process too.

/// How a thread is confined; the `SECCOMP_MODE_*` numbers of `<linux/seccomp.h>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum SeccompMode {
    Disabled = 0,
    Strict = 1,
    Filter = 2,
}

/// What belongs to a process rather than to one of its threads.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TaskCoreEntry {
    /// One of the [`task_state`] numbers.
    #[prost(uint32, required, tag = "1")]
    pub task_state: u32,
    /// Wait status of a zombie, 0 otherwise.
    #[prost(uint32, required, tag = "2")]
    pub exit_code: u32,
    /// See `personality(2)`.
    #[prost(uint32, required, tag = "3")]
    pub personality: u32,
    /// `PF_*` flags of the kernel, field 9 of `/proc/PID/stat`.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// Blocked signals of the leader, bit 0 is signal 1.
    #[prost(uint64, required, tag = "5")]
    pub blk_sigset: u64,
    /// Name of the process, at most 15 bytes and not necessarily UTF-8.
    #[prost(bytes = "vec", required, tag = "6")]
    pub comm: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    pub timers: Option<super::TaskTimersEntry>,
    #[prost(message, optional, tag = "8")]
    pub rlimits: Option<TaskRlimitsEntry>,
    /// Superseded by the field of the thread; read when that is missing.
    #[prost(uint32, optional, tag = "9")]
    pub cg_set: Option<u32>,
    /// Signals pending for the whole process.
    #[prost(message, optional, tag = "10")]
    pub signals_s: Option<super::SignalQueueEntry>,
    /// Superseded by the field of the thread.
    #[prost(enumeration = "SeccompMode", optional, tag = "11")]
    pub old_seccomp_mode: Option<i32>,
    /// Superseded by the field of the thread.
    #[prost(uint32, optional, tag = "12")]
    pub old_seccomp_filter: Option<u32>,
    /// `/proc/PID/loginuid`, `u32::MAX` when never set.
    #[prost(uint32, optional, tag = "13")]
    pub loginuid: Option<u32>,
    /// `/proc/PID/oom_score_adj`.
    #[prost(int32, optional, tag = "14")]
    pub oom_score_adj: Option<i32>,
    /// Dispositions of signals 1 to 64 without SIGKILL and SIGSTOP.
    #[prost(message, repeated, tag = "15")]
    pub sigactions: Vec<super::SaEntry>,
    /// See `PR_SET_CHILD_SUBREAPER` in `prctl(2)`.
    #[prost(bool, optional, tag = "18")]
    pub child_subreaper: Option<bool>,
    /// Signals 65 to 128, on MIPS only.
    #[prost(uint64, optional, tag = "20")]
    pub blk_sigset_extended: Option<u64>,
    /// The signal that stopped a stopped process.
    #[prost(uint32, optional, tag = "21")]
    pub stop_signo: Option<u32>,
    /// See `MEMBARRIER_CMD_GET_REGISTRATIONS` in `membarrier(2)`.
    #[prost(uint32, optional, tag = "22")]
    pub membarrier_registration_mask: Option<u32>,
    /// Ours, ignored by criu: the signal that the parent gets when the process ends, where it is not SIGCHLD.
    #[prost(uint32, optional, tag = "20001")]
    pub cryopod_exit_signal: Option<u32>,
    /// Ours, ignored by criu: which mappings a core dump holds (`/proc/PID/coredump_filter`).
    #[prost(uint32, optional, tag = "20002")]
    pub cryopod_coredump_filter: Option<u32>,
    /// Ours, ignored by criu: new mappings are locked (`MCL_FUTURE` of mlockall(2)).
    #[prost(bool, optional, tag = "20003")]
    pub cryopod_lock_future: Option<bool>,
    /// It has no controlling terminal, although the leader of its session has one: TIOCNOTTY of `ioctl_tty(2)`.
    #[prost(bool, optional, tag = "20010")]
    pub cryopod_no_terminal: Option<bool>,
    /// The first thread has ended with `exit_code`, and others live on.
    #[prost(bool, optional, tag = "20011")]
    pub cryopod_leader_ended: Option<bool>,
    /// Ours, ignored by criu: whether the kernel may merge equal pages anywhere (`PR_SET_MEMORY_MERGE`).
    #[prost(bool, optional, tag = "20020")]
    pub cryopod_memory_merge: Option<bool>,
    /// Ours, ignored by criu: what was writable may not be executed (`PR_SET_MDWE`).
    #[prost(uint32, optional, tag = "20021")]
    pub cryopod_mdwe: Option<u32>,
}

/// Which kernel objects a process has. Equal ids mean a shared object; the numbers name image files (`fdinfo-ID`,
/// ...).
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TaskKobjIdsEntry {
    /// Address space.
    #[prost(uint32, required, tag = "1")]
    pub vm_id: u32,
    /// Descriptor table, names fdinfo-ID.img.
    #[prost(uint32, required, tag = "2")]
    pub files_id: u32,
    /// Working directory, root and umask (`CLONE_FS`).
    #[prost(uint32, required, tag = "3")]
    pub fs_id: u32,
    /// Signal dispositions (`CLONE_SIGHAND`).
    #[prost(uint32, required, tag = "4")]
    pub sighand_id: u32,
    #[prost(uint32, optional, tag = "5")]
    pub pid_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub net_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub ipc_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub uts_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub mnt_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub user_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub cgroup_ns_id: Option<u32>,
    #[prost(uint32, optional, tag = "12")]
    pub time_ns_id: Option<u32>,
}

/// Alternate signal stack, see `sigaltstack(2)`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadSasEntry {
    /// Address of the stack.
    #[prost(uint64, required, tag = "1")]
    pub ss_sp: u64,
    #[prost(uint64, required, tag = "2")]
    pub ss_size: u64,
    /// `SS_*` flags.
    #[prost(uint32, required, tag = "3")]
    pub ss_flags: u32,
}

/// What belongs to a thread and does not depend on the processor.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadCoreEntry {
    /// Address of the robust futex list, see `get_robust_list(2)`.
    #[prost(uint64, required, tag = "1")]
    pub futex_rla: u64,
    /// Size of the list head.
    #[prost(uint32, required, tag = "2")]
    pub futex_rla_len: u32,
    /// Nice value, -20 to 19.
    #[prost(sint32, optional, tag = "3")]
    pub sched_nice: Option<i32>,
    /// `SCHED_*` number, see `sched(7)`.
    #[prost(uint32, optional, tag = "4")]
    pub sched_policy: Option<u32>,
    /// Real-time priority.
    #[prost(uint32, optional, tag = "5")]
    pub sched_prio: Option<u32>,
    /// Blocked signals, bit 0 is signal 1.
    #[prost(uint64, optional, tag = "6")]
    pub blk_sigset: Option<u64>,
    /// Alternate signal stack.
    #[prost(message, optional, tag = "7")]
    pub sas: Option<ThreadSasEntry>,
    /// See `PR_SET_PDEATHSIG` in `prctl(2)`.
    #[prost(uint32, optional, tag = "8")]
    pub pdeath_sig: Option<u32>,
    /// Signals pending for this thread alone.
    #[prost(message, optional, tag = "9")]
    pub signals_p: Option<super::SignalQueueEntry>,
    #[prost(message, optional, tag = "10")]
    pub creds: Option<super::CredsEntry>,
    #[prost(enumeration = "SeccompMode", optional, tag = "11")]
    pub seccomp_mode: Option<i32>,
    /// Last filter of the chain: place in [`SeccompEntry`](super::SeccompEntry).
    #[prost(uint32, optional, tag = "12")]
    pub seccomp_filter: Option<u32>,
    /// Name of the thread, at most 15 bytes and not necessarily UTF-8.
    #[prost(bytes = "vec", optional, tag = "13")]
    pub comm: Option<Vec<u8>>,
    /// Signals 65 to 128, on MIPS only.
    #[prost(uint64, optional, tag = "14")]
    pub blk_sigset_extended: Option<u64>,
    #[prost(message, optional, tag = "15")]
    pub rseq_entry: Option<super::RseqEntry>,
    /// Control groups: id of a [`CgSetEntry`](super::CgSetEntry).
    #[prost(uint32, optional, tag = "16")]
    pub cg_set: Option<u32>,
    /// Ours, ignored by criu: timer slack in nanoseconds (`PR_SET_TIMERSLACK`).
    #[prost(uint64, optional, tag = "20001")]
    pub cryopod_timer_slack_ns: Option<u64>,
    /// Ours, ignored by criu: the processors it may run on, as sched_getaffinity(2)'s bit mask.
    #[prost(bytes = "vec", optional, tag = "20002")]
    pub cryopod_affinity: Option<Vec<u8>>,
    /// Ours, ignored by criu: what happens on a memory error (`PR_MCE_KILL_GET`).
    #[prost(uint32, optional, tag = "20003")]
    pub cryopod_mce_policy: Option<u32>,
    /// Ours, ignored by criu: whether reading the time stamp counter is a fault (`PR_GET_TSC`), where it is.
    #[prost(uint32, optional, tag = "20020")]
    pub cryopod_tsc_mode: Option<u32>,
    /// Ours, ignored by criu: class and level of ioprio_get(2), where they were set.
    #[prost(uint32, optional, tag = "20021")]
    pub cryopod_io_priority: Option<u32>,
    /// Ours, ignored by criu: where memory comes from, where that was set.
    #[prost(message, optional, tag = "20022")]
    pub cryopod_memory_policy: Option<MemoryPolicy>,
    /// Ours, ignored by criu: the parameters of SCHED_DEADLINE.
    #[prost(message, optional, tag = "20023")]
    pub cryopod_deadline: Option<DeadlineEntry>,
}

/// Ours: the parameters of SCHED_DEADLINE, see `sched(7)`.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct DeadlineEntry {
    /// In nanoseconds, like the others.
    #[prost(uint64, required, tag = "1")]
    pub runtime_ns: u64,
    #[prost(uint64, required, tag = "2")]
    pub deadline_ns: u64,
    #[prost(uint64, required, tag = "3")]
    pub period_ns: u64,
    /// `SCHED_FLAG_*` bits.
    #[prost(uint64, required, tag = "4")]
    pub flags: u64,
}

/// Ours: from which nodes memory comes, see `set_mempolicy(2)`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct MemoryPolicy {
    /// `MPOL_*` number with its flags.
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    /// Bit N of it stands for node N.
    #[prost(bytes = "vec", required, tag = "2")]
    pub nodes: Vec<u8>,
}

/// All resource limits of a process, in the order of the `RLIMIT_*` numbers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TaskRlimitsEntry {
    #[prost(message, repeated, tag = "1")]
    pub rlimits: Vec<super::RlimitEntry>,
}

/// The one entry of core-PID.img.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CoreEntry {
    /// Says which of the processor-specific members is present.
    #[prost(enumeration = "March", required, tag = "1")]
    pub mtype: i32,
    /// x86 state.
    #[prost(message, optional, tag = "2")]
    pub thread_info: Option<super::ThreadInfoX86>,
    #[prost(message, optional, boxed, tag = "6")]
    pub ti_arm: Option<Box<super::ThreadInfoArm>>,
    #[prost(message, optional, boxed, tag = "8")]
    pub ti_aarch64: Option<Box<super::ThreadInfoAarch64>>,
    #[prost(message, optional, boxed, tag = "9")]
    pub ti_ppc64: Option<Box<super::ThreadInfoPpc64>>,
    #[prost(message, optional, boxed, tag = "10")]
    pub ti_s390: Option<Box<super::ThreadInfoS390>>,
    #[prost(message, optional, boxed, tag = "11")]
    pub ti_mips: Option<Box<super::ThreadInfoMips>>,
    #[prost(message, optional, boxed, tag = "12")]
    pub ti_loongarch64: Option<Box<super::ThreadInfoLoongarch64>>,
    #[prost(message, optional, boxed, tag = "13")]
    pub ti_riscv64: Option<Box<super::ThreadInfoRiscv64>>,
    /// Of the group leader only.
    #[prost(message, optional, tag = "3")]
    pub tc: Option<TaskCoreEntry>,
    /// Of the group leader only, and only in place of ids-PID.img.
    #[prost(message, optional, tag = "4")]
    pub ids: Option<TaskKobjIdsEntry>,
    #[prost(message, optional, tag = "5")]
    pub thread_core: Option<ThreadCoreEntry>,
    /// Cryopod's own field, unknown to and skipped by criu: the whole XSAVE area as `PTRACE_GETREGSET` with
    /// `NT_X86_XSTATE` returns it. It holds components [`UserX86XsaveEntry`](super::UserX86XsaveEntry) has no
    /// member for, and
    /// is preferred over `thread_info.fpregs` when the processor at restore has the same XSAVE layout.
    #[prost(bytes = "vec", optional, tag = "20001")]
    pub cryopod_xstate: Option<Vec<u8>>,
    /// Ours, ignored by criu: the extended-state components that the process may use (`ARCH_GET_XCOMP_PERM`); AMX tiles
    /// have to be asked for.
    #[prost(uint64, optional, tag = "20002")]
    pub cryopod_xcomp_permissions: Option<u64>,
}

/// Processor family a core entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum March {
    Unknown = 0,
    X86_64 = 1,
    Arm = 2,
    Aarch64 = 3,
    Ppc64 = 4,
    S390 = 5,
    Mips = 6,
    Loongarch64 = 7,
    Riscv64 = 8,
}

/// Values of [`TaskCoreEntry::task_state`].
pub mod task_state {
    /// Running or sleeping.
    pub const ALIVE: u32 = 1;
    /// Exited and reaped; never in an image.
    pub const DEAD: u32 = 2;
    /// Stopped by a signal.
    pub const STOPPED: u32 = 3;
    /// Exited and waiting for its parent.
    pub const ZOMBIE: u32 = 6;
}
