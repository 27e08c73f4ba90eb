//! fdinfo-ID.img, a descriptor table, and files.img, the open files its descriptors refer to.

/// What kind of open file an entry describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum FdTypes {
    Und = 0,
    Reg = 1,
    Pipe = 2,
    Fifo = 3,
    InetSk = 4,
    UnixSk = 5,
    EventFd = 6,
    EventPoll = 7,
    Inotify = 8,
    SignalFd = 9,
    PacketSk = 10,
    Tty = 11,
    Fanotify = 12,
    NetlinkSk = 13,
    Ns = 14,
    TunF = 15,
    Ext = 16,
    TimerFd = 17,
    MemFd = 18,
    BpfMap = 19,
    PidFd = 20,
    /// Ours.
    CryopodIoUring = 20001,
    /// Ours.
    CryopodMqueue = 20002,
    CtlTty = 65534,
    AutofsPipe = 65535,
}

/// One descriptor of a table.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FdinfoEntry {
    /// The open file: id of a [`FileEntry`].
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags of the descriptor (`FD_CLOEXEC` is 1).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(enumeration = "FdTypes", required, tag = "3")]
    pub r#type: i32,
    /// Number of the descriptor.
    #[prost(uint32, required, tag = "4")]
    pub fd: u32,
    #[prost(string, optional, tag = "5")]
    pub xattr_security_selinux: Option<String>,
}

/// One open file: exactly the member that `type` names is present.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FileEntry {
    #[prost(enumeration = "FdTypes", required, tag = "1")]
    pub r#type: i32,
    /// Equal to the id in the member.
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    #[prost(message, optional, boxed, tag = "3")]
    pub reg: Option<Box<super::RegFileEntry>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub isk: Option<Box<super::InetSkEntry>>,
    #[prost(message, optional, boxed, tag = "5")]
    pub nsf: Option<Box<super::NsFileEntry>>,
    #[prost(message, optional, boxed, tag = "6")]
    pub psk: Option<Box<super::PacketSockEntry>>,
    #[prost(message, optional, boxed, tag = "7")]
    pub nlsk: Option<Box<super::NetlinkSkEntry>>,
    #[prost(message, optional, boxed, tag = "8")]
    pub efd: Option<Box<super::EventfdFileEntry>>,
    #[prost(message, optional, boxed, tag = "9")]
    pub epfd: Option<Box<super::EventpollFileEntry>>,
    #[prost(message, optional, boxed, tag = "10")]
    pub sgfd: Option<Box<super::SignalfdEntry>>,
    #[prost(message, optional, boxed, tag = "11")]
    pub tunf: Option<Box<super::TunfileEntry>>,
    #[prost(message, optional, boxed, tag = "12")]
    pub tfd: Option<Box<super::TimerfdEntry>>,
    #[prost(message, optional, boxed, tag = "13")]
    pub ify: Option<Box<super::InotifyFileEntry>>,
    #[prost(message, optional, boxed, tag = "14")]
    pub ffy: Option<Box<super::FanotifyFileEntry>>,
    #[prost(message, optional, boxed, tag = "15")]
    pub ext: Option<Box<super::ExtFileEntry>>,
    #[prost(message, optional, boxed, tag = "16")]
    pub usk: Option<Box<super::UnixSkEntry>>,
    #[prost(message, optional, boxed, tag = "17")]
    pub fifo: Option<Box<super::FifoEntry>>,
    #[prost(message, optional, boxed, tag = "18")]
    pub pipe: Option<Box<super::PipeEntry>>,
    #[prost(message, optional, boxed, tag = "19")]
    pub tty: Option<Box<super::TtyFileEntry>>,
    #[prost(message, optional, boxed, tag = "20")]
    pub memfd: Option<Box<super::MemfdFileEntry>>,
    #[prost(message, optional, boxed, tag = "21")]
    pub bpf: Option<Box<super::BpfmapFileEntry>>,
    #[prost(message, optional, boxed, tag = "22")]
    pub pidfd: Option<Box<super::PidfdEntry>>,
    /// Ours, unknown to criu.
    #[prost(message, optional, boxed, tag = "20001")]
    pub cryopod_io_uring: Option<Box<super::CryopodIoUringEntry>>,
    /// Ours, unknown to criu.
    #[prost(message, optional, boxed, tag = "20002")]
    pub cryopod_mqueue: Option<Box<super::CryopodMqueueFileEntry>>,
}
