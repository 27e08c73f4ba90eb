//! The network as dump and restore both see it.
//!
//! - `netlink`: requests and answers as netlink(7) frames them
//! - `diag`: what sock_diag(7) knows of a socket and no socket option tells, a room for each family
//! - `nftables`: nf_tables' messages, as few as a lock needs
//! - `iptables`: ends the locks of criu's that are made otherwise
//! - `lock`: no packet of a connection passes
//! - `packet`: packets that somebody might have sent to this machine
//! - `segment`: TCP segments for connections that are being put together
//! - `datagram`: those of UDP that are to come once more
//! - `multicast`: groups that a socket has joined
//! - `address`: socket addresses between the kernel's form and that of images

pub mod address;
pub mod datagram;
pub mod diag;
pub mod iptables;
pub mod lock;
pub mod multicast;
pub mod netlink;
pub mod nftables;
pub mod packet;
pub mod segment;
