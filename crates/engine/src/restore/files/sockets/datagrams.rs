//! Datagrams that waited to be read come once more, from whoever has sent them, one after the other. Those that do not
//! arrive are lost, as UDP may lose them, and that is logged.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cryopod_image::SetReader;
use cryopod_image::criu::SkPacketEntry;
use cryopod_sys::{Result as SysResult, socket};

use super::inet::Made;
use super::{options, queued};
use crate::dump::files::sockets::datagrams::is_udp;
use crate::error::{Context, Result};
use crate::net::address;
use crate::net::datagram::Datagram;

/// How long one may take from the sender to the socket; both are here.
const ON_THE_WAY: Duration = Duration::from_millis(500);

/// Fills the queues of those sockets that have one in the image. Before their buffers, filters and shutdowns are restored.
pub fn restore(set: &SetReader, sockets: &[Made]) -> Result<()> {
    let sockets: BTreeMap<u32, &Made> = sockets
        .iter()
        .filter(|made| is_udp(&made.kind()))
        .map(|made| (made.entry.id, made))
        .collect();
    let mut lost: BTreeMap<u32, usize> = BTreeMap::new();
    let mut prepared = None;
    queued::each(set, |packet, payload| {
        let Some(&made) = sockets.get(&packet.id_for) else {
            return Ok(());
        };
        // Of one socket, all are behind one another.
        if prepared.replace(packet.id_for) != Some(packet.id_for) {
            options::prepare(made.file.as_fd())?;
        }
        let datagram = datagram(made, packet, payload()?)?;
        if !arrives(made, &datagram)? {
            *lost.entry(packet.id_for).or_default() += 1;
        }
        Ok(())
    })?;
    for (id, count) in lost {
        let socket = sockets.get(&id).and_then(|made| made.ends().ok());
        let socket = socket.map(|(local, _)| local.to_string());
        tracing::warn!(socket, count, "datagrams that waited to be read are lost");
    }
    Ok(())
}

fn datagram(made: &Made, packet: &SkPacketEntry, bytes: Vec<u8>) -> Result<Datagram> {
    let address = |raw: &Option<Vec<u8>>| address::parse(raw.as_deref()?);
    let corrupt = || super::super::corrupt(packet.id_for, "a datagram with a broken address");
    Ok(Datagram {
        protocol: made.entry.proto as u8,
        from: address(&packet.cryopod_from).ok_or_else(corrupt)?,
        to: address(&packet.cryopod_to).ok_or_else(corrupt)?,
        bytes,
    })
}

/// Sends a datagram and waits until it is there.
fn arrives(made: &Made, datagram: &Datagram) -> Result<bool> {
    if let Some(why) = datagram.obstacle() {
        tracing::debug!(%datagram.to, why, "a datagram cannot come once more");
        return Ok(false);
    }
    let filled = || used_bytes(made).host("ask how full a socket is (SO_MEMINFO)");
    let before = filled()?;
    if let Err(error) = datagram.deliver() {
        tracing::debug!(%datagram.to, %error, "a datagram cannot be sent once more");
        return Ok(false);
    }
    let deadline = Instant::now() + ON_THE_WAY;
    while filled()? == before {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(true)
}

/// How much memory what waits in a socket takes (`SK_MEMINFO_RMEM_ALLOC` of linux/sock_diag.h).
fn used_bytes(made: &Made) -> SysResult<u32> {
    const SO_MEMINFO: i32 = 55;
    let raw = socket::option_bytes(made.file.as_fd(), libc::SOL_SOCKET, SO_MEMINFO, 4)?;
    let word = raw.first_chunk().map(|word| u32::from_ne_bytes(*word));
    Ok(word.unwrap_or(0))
}
