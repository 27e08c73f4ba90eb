//! tty.img, tty-info.img and tty-data.img: terminals, see `tty(4)`, `pty(7)` and `termios(3)`.

/// Window size, see `ioctl_tty(2)`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct WinsizeEntry {
    #[prost(uint32, required, tag = "1")]
    pub ws_row: u32,
    #[prost(uint32, required, tag = "2")]
    pub ws_col: u32,
    #[prost(uint32, required, tag = "3")]
    pub ws_xpixel: u32,
    #[prost(uint32, required, tag = "4")]
    pub ws_ypixel: u32,
}

/// Line settings, see `termios(3)`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TermiosEntry {
    #[prost(uint32, required, tag = "1")]
    pub c_iflag: u32,
    #[prost(uint32, required, tag = "2")]
    pub c_oflag: u32,
    #[prost(uint32, required, tag = "3")]
    pub c_cflag: u32,
    #[prost(uint32, required, tag = "4")]
    pub c_lflag: u32,
    #[prost(uint32, required, tag = "5")]
    pub c_line: u32,
    #[prost(uint32, required, tag = "6")]
    pub c_ispeed: u32,
    #[prost(uint32, required, tag = "7")]
    pub c_ospeed: u32,
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub c_cc: Vec<u32>,
}

/// What only pseudo-terminals have.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TtyPtyEntry {
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
}

/// Kind of terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum TtyType {
    Unknown = 0,
    Pty = 1,
    Console = 2,
    Vt = 3,
    Ctty = 4,
    ExtTty = 5,
    Serial = 6,
}

/// Unread input of a terminal.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TtyDataEntry {
    /// Id of a [`TtyInfoEntry`].
    #[prost(uint32, required, tag = "1")]
    pub tty_id: u32,
    #[prost(bytes = "vec", required, tag = "2")]
    pub data: Vec<u8>,
}

/// One terminal.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TtyInfoEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(enumeration = "TtyType", required, tag = "2")]
    pub r#type: i32,
    #[prost(bool, required, tag = "3")]
    pub locked: bool,
    #[prost(bool, required, tag = "4")]
    pub exclusive: bool,
    #[prost(bool, required, tag = "5")]
    pub packet_mode: bool,
    /// Session it controls.
    #[prost(uint32, required, tag = "6")]
    pub sid: u32,
    /// Foreground process group.
    #[prost(uint32, required, tag = "7")]
    pub pgrp: u32,
    /// Device number.
    #[prost(uint32, required, tag = "8")]
    pub rdev: u32,
    #[prost(message, optional, tag = "9")]
    pub termios: Option<TermiosEntry>,
    #[prost(message, optional, tag = "10")]
    pub termios_locked: Option<TermiosEntry>,
    #[prost(message, optional, tag = "11")]
    pub winsize: Option<WinsizeEntry>,
    #[prost(message, optional, tag = "12")]
    pub pty: Option<TtyPtyEntry>,
    #[prost(uint32, optional, tag = "13")]
    pub dev: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub uid: Option<u32>,
    #[prost(uint32, optional, tag = "15")]
    pub gid: Option<u32>,
    /// Of a master: the slave was open once and is open nowhere now.
    #[prost(bool, optional, tag = "20001")]
    pub cryopod_slave_closed: Option<bool>,
    /// Output is stopped: see [`tty_stop`].
    #[prost(uint32, optional, tag = "20002")]
    pub cryopod_stop: Option<u32>,
    /// Of a master whose slave is open nowhere: what the next one to open it will read.
    #[prost(bytes = "vec", optional, tag = "20003")]
    pub cryopod_slave_input: Option<Vec<u8>>,
    /// Of /dev/tty: the device number of the terminal behind it, as in `/proc/PID/stat`.
    #[prost(uint32, optional, tag = "20004")]
    pub cryopod_device: Option<u32>,
}

/// Values of [`TtyInfoEntry::cryopod_stop`].
pub mod tty_stop {
    /// The stop character was typed.
    pub const CHARACTER: u32 = 1;
    /// A program asked for it, `tcflow(3)`.
    pub const PROGRAM: u32 = 2;
}

/// An open file on a terminal.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TtyFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Id of a [`TtyInfoEntry`].
    #[prost(uint32, required, tag = "2")]
    pub tty_info_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    #[prost(message, required, tag = "4")]
    pub fown: super::FownEntry,
    /// Id of a [`RegFileEntry`](super::RegFileEntry).
    #[prost(uint32, optional, tag = "6")]
    pub regf_id: Option<u32>,
}
