//! TCP connections, put together under repair.
//!
//! The order is that of the kernel's rules: sequence numbers before connect(2), which sends nothing under repair; then
//! what was agreed on when the connection was made; then the queues, the windows, and last whatever was closed already.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use cryopod_image::criu::TcpStreamEntry;
use cryopod_image::{Kind, SetReader};
use cryopod_sys::tcp::{self, Negotiated, Queue, Repair, Window, option, state};
use cryopod_sys::{Errno, Result as SysResult};
use rustix::net::{SendFlags, Shutdown};

use super::inet::Made;
use super::options;
use crate::error::{Context, Error, Result};
use crate::net::address::on_the_wire;
use crate::net::segment::Segment;

/// A connection as it was.
pub struct Stream {
    state: u8,
    entry: TcpStreamEntry,
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl Stream {
    /// Reads and checks it.
    pub fn read(set: &SetReader, ino: u32, in_state: u32) -> Result<Self> {
        let mut image = set.entries(Kind::TcpStream, Some(u64::from(ino)))?;
        let entry: TcpStreamEntry = image.expect_entry()?;
        let received = image.payload(u64::from(entry.inq_len))?;
        let sent = image.payload(u64::from(entry.outq_len))?;
        let stream = Self {
            state: u8::try_from(in_state).unwrap_or(0),
            entry,
            received,
            sent,
        };
        let checked = stream.check();
        checked.map_err(|what| Error::inconsistent(format!("tcp-stream-{ino:x}"), what))?;
        Ok(stream)
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        /// RFC 7323.
        const LARGEST_SCALE: u32 = 14;
        /// From the least that a header leaves room for to the largest packet.
        const SEGMENTS: std::ops::RangeInclusive<u32> = 48..=65535;
        let known = [
            state::ESTABLISHED,
            state::SYN_SENT,
            state::FIN_WAIT1,
            state::FIN_WAIT2,
            state::CLOSE,
            state::CLOSE_WAIT,
            state::LAST_ACK,
            state::CLOSING,
        ];
        let entry = &self.entry;
        let scales = [Some(entry.snd_wscale), entry.rcv_wscale];
        if !known.contains(&self.state) {
            return Err("a connection in a state that none can be in");
        }
        if entry.unsq_len.is_none_or(|unsent| unsent > entry.outq_len) {
            return Err("more was never sent than was written");
        }
        if scales
            .into_iter()
            .flatten()
            .any(|scale| scale > LARGEST_SCALE)
        {
            return Err("an impossible scale of a window");
        }
        if self.has(option::WSCALE) && entry.rcv_wscale.is_none() {
            return Err("a scaled window without its scale");
        }
        if self.has(option::TIMESTAMPS) && entry.timestamp.is_none() {
            return Err("timestamps without their clock");
        }
        if !SEGMENTS.contains(&entry.mss_clamp) {
            return Err("an impossible size of segments");
        }
        Ok(())
    }

    fn has(&self, bit: u8) -> bool {
        self.entry.opt_mask & u32::from(bit) != 0
    }

    /// Whether the peer has closed: its FIN has a sequence number of its own.
    fn peer_closed(&self) -> bool {
        [
            state::CLOSE_WAIT,
            state::LAST_ACK,
            state::CLOSING,
            state::CLOSE,
        ]
        .contains(&self.state)
    }

    /// Whether we have closed; and whether that came before the peer's FIN, and was acknowledged.
    fn we_closed(&self) -> Option<Closed> {
        let (first, acknowledged) = match self.state {
            state::FIN_WAIT1 | state::CLOSING => (true, false),
            state::FIN_WAIT2 => (true, true),
            state::LAST_ACK => (false, false),
            state::CLOSE => (false, true),
            _ => return None,
        };
        Some(Closed {
            first,
            acknowledged,
        })
    }

    /// The sequence number behind what was received, without the peer's FIN.
    fn received_end(&self) -> u32 {
        self.entry.inq_seq.wrapping_sub(self.peer_closed().into())
    }

    /// The sequence number behind what was written, without our FIN.
    fn sent_end(&self) -> u32 {
        self.entry
            .outq_seq
            .wrapping_sub(self.we_closed().is_some().into())
    }
}

/// How we closed a connection.
#[derive(Clone, Copy)]
struct Closed {
    first: bool,
    acknowledged: bool,
}

/// Makes a socket the end of a connection. It stays under repair: see [`release`].
pub fn restore(made: &Made, stream: &Stream) -> Result<()> {
    let (local, peer) = made.ends()?;
    let builder = Builder {
        fd: made.file.as_fd(),
        local,
        peer,
        stream,
    };
    options::prepare(builder.fd)?;
    builder.build().map_err(|source| Error::Address {
        operation: "restore the TCP connection to",
        address: peer,
        source,
    })
}

/// Makes a connection an ordinary one again. The kernel asks its peer how far it is, so that both soon know.
pub fn release(made: &Made) -> Result<()> {
    tcp::set_repair(made.file.as_fd(), Repair::Off).host("end the repair of a connection")?;
    // The end of a repair clears it.
    options::restore_reuse(made.file.as_fd(), &made.entry.opts)
}

struct Builder<'a> {
    fd: BorrowedFd<'a>,
    local: SocketAddr,
    peer: SocketAddr,
    stream: &'a Stream,
}

impl Builder<'_> {
    fn build(&self) -> SysResult<()> {
        tcp::set_repair(self.fd, Repair::On)?;
        rustix::net::bind(self.fd, &self.local)?;
        self.sequences()?;
        self.connect()?;
        self.negotiated()?;
        self.fill()?;
        self.windows()?;
        self.closed()
    }

    /// The numbers where both queues begin.
    fn sequences(&self) -> SysResult<()> {
        let stream = self.stream;
        let received = stream.received_end().wrapping_sub(stream.entry.inq_len);
        let mut sent = stream.sent_end().wrapping_sub(stream.entry.outq_len);
        if stream.state == state::SYN_SENT {
            // A SYN has a number too, and is sent once more.
            sent = sent.wrapping_sub(1);
        }
        for (queue, sequence) in [(Queue::Receive, received), (Queue::Send, sent)] {
            tcp::choose_queue(self.fd, queue)?;
            tcp::set_queue_sequence(self.fd, sequence)?;
        }
        Ok(())
    }

    fn connect(&self) -> SysResult<()> {
        let knocks = self.stream.state == state::SYN_SENT;
        if knocks {
            tcp::set_repair(self.fd, Repair::OffSilently)?;
        }
        match rustix::net::connect(self.fd, &self.peer) {
            Err(Errno::INPROGRESS) if knocks => {}
            connected => connected?,
        }
        if knocks {
            tcp::set_repair(self.fd, Repair::On)?;
        }
        Ok(())
    }

    fn negotiated(&self) -> SysResult<()> {
        let (stream, entry) = (self.stream, &self.stream.entry);
        let mut options = Vec::new();
        if stream.has(option::SACK) {
            options.push(Negotiated::Sack);
        }
        if stream.has(option::WSCALE) {
            options.push(Negotiated::WindowScale {
                snd: entry.snd_wscale as u8,
                rcv: entry.rcv_wscale.unwrap_or(0) as u8,
            });
        }
        if stream.has(option::TIMESTAMPS) {
            options.push(Negotiated::Timestamps);
        }
        options.push(Negotiated::MaxSegment(entry.mss_clamp));
        if stream.state != state::SYN_SENT {
            tcp::set_negotiated(self.fd, &options)?;
        }
        match entry.timestamp.filter(|_| stream.has(option::TIMESTAMPS)) {
            Some(timestamp) => tcp::set_timestamp(self.fd, timestamp),
            None => Ok(()),
        }
    }

    /// Both queues. What was never sent goes in as a program would write it, because the kernel must not wait for an
    /// acknowledgement of it.
    fn fill(&self) -> SysResult<()> {
        let unsent = self.stream.entry.unsq_len.unwrap_or(0) as usize;
        let (sent, unsent) = self.stream.sent.split_at(self.stream.sent.len() - unsent);
        for (queue, bytes) in [
            (Queue::Receive, &self.stream.received[..]),
            (Queue::Send, sent),
        ] {
            if !bytes.is_empty() {
                tcp::choose_queue(self.fd, queue)?;
                self.write(bytes)?;
            }
        }
        if !unsent.is_empty() {
            tcp::set_repair(self.fd, Repair::OffSilently)?;
            self.write(unsent)?;
            tcp::set_repair(self.fd, Repair::On)?;
        }
        Ok(())
    }

    /// Writes all of it. The kernel makes one buffer of what it gets at once for a receive queue, and may have none that
    /// is large enough.
    fn write(&self, mut bytes: &[u8]) -> SysResult<()> {
        const SMALLEST: usize = 1024;
        let mut most = 1 << 20;
        while !bytes.is_empty() {
            let some = &bytes[..bytes.len().min(most)];
            match rustix::net::send(self.fd, some, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(_) if most > SMALLEST => most /= 2,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn windows(&self) -> SysResult<()> {
        let entry = &self.stream.entry;
        let Some(snd_wnd) = entry.snd_wnd else {
            return Ok(());
        };
        // The peer's FIN is still to come.
        let fin = u32::from(self.stream.peer_closed());
        tcp::set_window(
            self.fd,
            Window {
                snd_wl1: entry.snd_wl1.unwrap_or(0),
                snd_wnd,
                max_window: entry.max_window.unwrap_or(0),
                rcv_wnd: entry.rcv_wnd.unwrap_or(0).wrapping_add(fin),
                rcv_wup: entry.rcv_wup.unwrap_or(0).wrapping_sub(fin),
            },
        )
    }

    /// Closes what was closed, in the order in which it was.
    fn closed(&self) -> SysResult<()> {
        let stream = self.stream;
        let ours = stream.we_closed();
        // Behind the queues, without the FINs.
        let una = stream.sent_end().wrapping_sub(stream.entry.outq_len);
        if let Some(closed) = ours.filter(|closed| closed.first) {
            self.close(closed)?;
        }
        if stream.peer_closed() {
            self.hear(stream.received_end(), una, true)?;
        }
        if let Some(closed) = ours.filter(|closed| !closed.first) {
            self.close(closed)?;
        }
        if ours.is_some_and(|closed| closed.acknowledged) {
            self.hear(stream.entry.inq_seq, una.wrapping_add(1), false)?;
        }
        self.arrive()
    }

    /// Puts our FIN into the queue: as one that was sent, where the peer has acknowledged it; otherwise it is sent.
    fn close(&self, closed: Closed) -> SysResult<()> {
        if closed.acknowledged {
            tcp::choose_queue(self.fd, Queue::Send)?;
        }
        rustix::net::shutdown(self.fd, Shutdown::Write)?;
        if closed.acknowledged {
            tcp::choose_queue(self.fd, Queue::None)?;
        }
        Ok(())
    }

    /// Has the connection hear from its peer.
    fn hear(&self, sequence: u32, acknowledged: u32, fin: bool) -> SysResult<()> {
        let entry = &self.stream.entry;
        let window = entry.snd_wnd.unwrap_or(u32::MAX) >> entry.snd_wscale;
        let segment = Segment {
            from: on_the_wire(self.peer),
            to: on_the_wire(self.local),
            sequence,
            acknowledged,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            fin,
        };
        segment.deliver()
    }

    /// Waits until the connection is in its state: segments come by way of a queue of the kernel.
    fn arrive(&self) -> SysResult<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while tcp::info(self.fd)?.state != self.stream.state {
            if Instant::now() > deadline {
                return Err(Errno::TIMEDOUT);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(in_state: u8) -> Stream {
        Stream {
            state: in_state,
            entry: TcpStreamEntry {
                inq_seq: 100,
                outq_seq: 200,
                mss_clamp: 1460,
                unsq_len: Some(0),
                ..TcpStreamEntry::default()
            },
            received: Vec::new(),
            sent: Vec::new(),
        }
    }

    #[test]
    fn fins_have_numbers() {
        let ends = |in_state| {
            let stream = stream(in_state);
            (stream.received_end(), stream.sent_end())
        };
        assert_eq!(ends(state::ESTABLISHED), (100, 200));
        assert_eq!(ends(state::FIN_WAIT2), (100, 199));
        assert_eq!(ends(state::CLOSE_WAIT), (99, 200));
        assert_eq!(ends(state::CLOSING), (99, 199));
        assert_eq!(ends(state::CLOSE), (99, 199));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(stream(state::ESTABLISHED).check().is_ok());
        assert!(stream(state::LISTEN).check().is_err());
        let broken = |change: fn(&mut TcpStreamEntry)| {
            let mut stream = stream(state::ESTABLISHED);
            change(&mut stream.entry);
            stream.check().is_err()
        };
        assert!(broken(|entry| entry.unsq_len = Some(1)));
        assert!(broken(|entry| entry.snd_wscale = 15));
        assert!(broken(|entry| entry.opt_mask = 4));
        assert!(broken(|entry| entry.opt_mask = 1));
        assert!(broken(|entry| entry.mss_clamp = 0));
    }

    proptest! {
        #[test]
        fn any_numbers_are_survived(in_state: u8, inq_seq: u32, outq_seq: u32, unsent: Option<u32>) {
            let mut stream = stream(in_state);
            stream.entry.inq_seq = inq_seq;
            stream.entry.outq_seq = outq_seq;
            stream.entry.unsq_len = unsent;
            let _ = stream.check();
            let _ = (stream.received_end(), stream.sent_end());
        }
    }
}
