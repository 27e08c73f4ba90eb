//! Entries of CRIU's images, one module per noun.
//!
//! Names, numbers and types of the fields are those of the `.proto` files in `images/` of
//! <https://github.com/checkpoint-restore/criu> (MIT, criu 4.2): a type `mm_entry` is [`MmEntry`], its field
//! `exe_file_id` is [`MmEntry::exe_file_id`]. A field without a comment means what its name says there. Four things
//! differ from what a protobuf compiler would have made:
//!
//! - Paths, process names and the like are `Vec<u8>` where the definition says `string`: the kernel does not promise
//!   UTF-8, criu does not check it, and on the wire both are the same.
//! - The members of [`FileEntry`] are boxed, so that a list of a million small entries stays small.
//! - [`CoreEntry::cryopod_xstate`] is ours; readers that do not know it skip it.
//! - A `required` field that is missing is read as zero or empty rather than refused, and an enum is an `i32` so that
//!   numbers unknown to this version survive; the accessor of the same name returns the enum.
//!
//! A `required` field is always written, also when it is zero, as criu expects.
#![expect(
    missing_docs,
    reason = "plain mirrors of the fields of the .proto definitions, see above"
)]

pub mod bpfmap_data;
pub mod bpfmap_file;
pub mod cgroup;
pub mod core;
pub mod core_aarch64;
pub mod core_arm;
pub mod core_loongarch64;
pub mod core_mips;
pub mod core_ppc64;
pub mod core_riscv64;
pub mod core_s390;
pub mod core_x86;
pub mod creds;
pub mod eventfd;
pub mod eventpoll;
pub mod ext_file;
pub mod fdinfo;
pub mod fh;
pub mod fifo;
pub mod file_lock;
pub mod fown;
pub mod fs;
pub mod fsnotify;
pub mod ghost_file;
pub mod inventory;
pub mod io_uring;
pub mod ipc;
pub mod memfd;
pub mod mm;
pub mod mqueue;
pub mod ns;
pub mod packet_sock;
pub mod pagemap;
pub mod pidfd;
pub mod pipe;
pub mod pipe_data;
pub mod pstree;
pub mod regfile;
pub mod remap_file_path;
pub mod rlimit;
pub mod rseq;
pub mod sa;
pub mod seccomp;
pub mod siginfo;
pub mod signalfd;
pub mod sk_inet;
pub mod sk_netlink;
pub mod sk_opts;
pub mod sk_packet;
pub mod sk_unix;
pub mod stats;
pub mod tcp_stream;
pub mod time;
pub mod timens;
pub mod timer;
pub mod timerfd;
pub mod tty;
pub mod tun;
pub mod vma;

pub use self::bpfmap_data::*;
pub use self::bpfmap_file::*;
pub use self::cgroup::*;
pub use self::core::*;
pub use self::core_aarch64::*;
pub use self::core_arm::*;
pub use self::core_loongarch64::*;
pub use self::core_mips::*;
pub use self::core_ppc64::*;
pub use self::core_riscv64::*;
pub use self::core_s390::*;
pub use self::core_x86::*;
pub use self::creds::*;
pub use self::eventfd::*;
pub use self::eventpoll::*;
pub use self::ext_file::*;
pub use self::fdinfo::*;
pub use self::fh::*;
pub use self::fifo::*;
pub use self::file_lock::*;
pub use self::fown::*;
pub use self::fs::*;
pub use self::fsnotify::*;
pub use self::ghost_file::*;
pub use self::inventory::*;
pub use self::io_uring::*;
pub use self::ipc::*;
pub use self::memfd::*;
pub use self::mm::*;
pub use self::mqueue::*;
pub use self::ns::*;
pub use self::packet_sock::*;
pub use self::pagemap::*;
pub use self::pidfd::*;
pub use self::pipe::*;
pub use self::pipe_data::*;
pub use self::pstree::*;
pub use self::regfile::*;
pub use self::remap_file_path::*;
pub use self::rlimit::*;
pub use self::rseq::*;
pub use self::sa::*;
pub use self::seccomp::*;
pub use self::siginfo::*;
pub use self::signalfd::*;
pub use self::sk_inet::*;
pub use self::sk_netlink::*;
pub use self::sk_opts::*;
pub use self::sk_packet::*;
pub use self::sk_unix::*;
pub use self::stats::*;
pub use self::tcp_stream::*;
pub use self::time::*;
pub use self::timens::*;
pub use self::timer::*;
pub use self::timerfd::*;
pub use self::tty::*;
pub use self::tun::*;
pub use self::vma::*;
