//! Internet sockets: those that listen or need no connection, and TCP connections that go on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::harness::scene::survives;
use crate::harness::{Context, Program, Scene, Test, poll};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("inet::listeners", |c| {
            survives(c, Program::native("listeners"))
        }),
        Test::new("inet::listeners_that_share_a_port", |c| {
            survives(c, Program::native("sharing_listeners"))
        }),
        Test::new("inet::datagrams", |c| {
            survives(c, Program::native("datagrams"))
        }),
        Test::new("inet::datagrams_that_wait_to_be_read", |c| {
            survives(c, Program::native("waiting_datagrams"))
        }),
        Test::new("inet::multicast_groups", |c| {
            survives(c, Program::native("multicast"))
        }),
        Test::new("inet::netlink", |c| survives(c, Program::native("netlink"))),
        Test::new("inet::packets", |c| survives(c, Program::native("packets"))),
        Test::new("inet::connection_to_a_peer_outside", |c| {
            talks_to_a_peer(c, "127.0.0.1")
        }),
        Test::new("inet::connection_to_a_peer_outside_over_ipv6", |c| {
            talks_to_a_peer(c, "::1")
        }),
        Test::new("inet::connections_within_the_tree", |c| {
            survives(c, kept(Program::native("inner_streams")))
        }),
        Test::new("inet::connections_that_are_closed", |c| {
            survives(c, kept(Program::native("closed_streams")))
        }),
        Test::new("inet::connection_that_is_dropped", drops_a_connection),
        Test::new("inet::connection_without_an_option", refuses_a_connection),
        Test::new(
            "inet::listener_as_standard_input",
            listener_as_standard_input,
        ),
        Test::new(
            "inet::connection_as_standard_input",
            connection_as_standard_input,
        ),
        Test::new("inet::mptcp_listeners", |c| {
            survives(c, kept(Program::native("mptcp_listeners")))
        }),
        Test::new("inet::busy_server_left_running", |c| busy_server(c, false)),
        Test::new("inet::busy_server_that_is_ended", |c| busy_server(c, true)),
        Test::new("inet::connection_that_nobody_accepts", nobody_accepts),
    ]
}

/// With its connections taken along. What waits in queues differs from moment to moment.
fn kept(program: Program) -> Program {
    program
        .checkpointed_with(&["--tcp-established"])
        .restored_with(&["--tcp-established"])
        .ignoring(&["/state", "/wchan", "/syscall"])
}

/// The byte at a place of a stream: see `targets/stream.c`.
fn byte_at(place: u64) -> u8 {
    let mixed = place.wrapping_mul(2_654_435_761) >> 13;
    mixed.to_le_bytes()[0]
}

/// A peer that sends and verifies as long as the other end does.
struct Peer {
    port: u16,
    talk: JoinHandle<Result<(u64, u64)>>,
}

impl Peer {
    fn start(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let port = listener.local_addr()?.port();
        let talk = thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            drop(listener);
            let sender = thread::spawn({
                let stream = stream.try_clone()?;
                move || send_for_ever(stream)
            });
            let received = receive_to_the_end(&stream)?;
            // The other end has closed: whatever we write after this one is not read any more.
            stream.shutdown(Shutdown::Write)?;
            match sender.join() {
                Ok(sent) => Ok((sent?, received)),
                Err(_) => bail!("the sending thread panicked"),
            }
        });
        Ok(Self { port, talk })
    }

    /// What it has sent and received, when the other end has closed.
    fn finish(self) -> Result<(u64, u64)> {
        match self.talk.join() {
            Ok(counts) => counts.context("the peer"),
            Err(_) => bail!("the peer panicked"),
        }
    }
}

fn send_for_ever(mut stream: TcpStream) -> Result<u64> {
    let mut sent = 0;
    loop {
        let some: Vec<u8> = (sent..sent + 10_000).map(byte_at).collect();
        match stream.write(&some) {
            Ok(written) => sent += written as u64,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(sent),
            Err(error) => return Err(error.into()),
        }
    }
}

fn receive_to_the_end(mut stream: &TcpStream) -> Result<u64> {
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let some = stream.read(&mut buffer)?;
        if some == 0 {
            return Ok(received);
        }
        for (&byte, place) in buffer[..some].iter().zip(received..) {
            let expected = byte_at(place);
            ensure!(byte == expected, "byte {place} is {byte}, not {expected}");
        }
        received += some as u64;
    }
}

/// A program talks with a peer outside of its tree in both directions, as fast as both can, through everything.
fn talks_to_a_peer(context: &Context, address: &str) -> Result<()> {
    context.cryopod()?;
    let peer = Peer::start(address)?;
    let program = kept(Program::native("stream"))
        .arg(address)
        .arg(peer.port.to_string());
    let mut scene = Scene::start(context, program)?;
    if !context.without_checkpoint {
        // A checkpoint of a running program is only read: nobody waits for it to be restored.
        scene.checkpoint("target:running")?;
        for round in ["target:first", "target:second", "target:third"] {
            scene.checkpoint_and_stop(round).context(round)?;
            scene.restore(round).context(round)?;
        }
    }
    scene.tell_to_go()?;
    scene.await_file("done")?;
    let count = |name| -> Result<u64> {
        let text = scene.file(name).context("the target tells no numbers")?;
        Ok(text.trim().parse()?)
    };
    let (sent, received) = (count("sent")?, count("received")?);
    scene.content()?;
    let (peer_sent, peer_received) = peer.finish()?;
    ensure!(
        (sent, received) == (peer_received, peer_sent),
        "sent {sent}, of which {peer_received} came; received {received} of {peer_sent}"
    );
    Ok(())
}

fn drops_a_connection(context: &Context) -> Result<()> {
    context.cryopod()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let program = Program::native("dropped_stream")
        .arg("127.0.0.1")
        .arg(listener.local_addr()?.port().to_string())
        .checkpointed_with(&["--tcp-close"])
        .restored_with(&["--tcp-close"]);
    let mut scene = Scene::start(context, program)?;
    let (mut peer, _) = listener.accept()?;
    if !context.without_checkpoint {
        scene.checkpoint_and_stop("target:dropped")?;
        // Nothing holds its packets back.
        ensure!(peer.read(&mut [0])? == 0, "the peer hears something");
        scene.restore("target:dropped")?;
    } else {
        peer.shutdown(Shutdown::Both)?;
        return Ok(());
    }
    scene.finish()
}

fn refuses_a_connection(context: &Context) -> Result<()> {
    context.cryopod()?;
    let peer = Peer::start("127.0.0.1")?;
    let program = Program::native("stream")
        .arg("127.0.0.1")
        .arg(peer.port.to_string());
    let scene = Scene::start(context, program)?;
    let root = scene.root.to_string();
    let refused = scene
        .cryopod
        .fails("unsupported", &["checkpoint", &root, "target:never"])?;
    refused.says("--tcp-established")?.says("--tcp-close")?;
    scene.tell_to_go()?;
    scene.await_file("done")?;
    scene.content()?;
    peer.finish().map(drop)
}

/// Clients at a time of a server that takes one after the other.
const CALLERS: usize = 6;
/// Checkpoints of it.
const ROUNDS: usize = 8;

/// Connects, says something, and hears the answer and the end. `Ok(false)` when nobody listens.
fn call(port: u16) -> Result<bool> {
    let mut stream = match TcpStream::connect(("127.0.0.1", port)) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(false),
        connected => connected.context("connect")?,
    };
    stream.set_read_timeout(Some(poll::PATIENCE))?;
    stream.write_all(b"a").context("write")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read")?;
    ensure!(answer == b"b", "the answer is {answer:?}");
    Ok(true)
}

/// Connections come and go all the time, so that one waits to be accepted at nearly every moment. Checkpoints are taken
/// all the same, and whoever got a connection gets an answer, also where the server is ended and restored.
fn busy_server(context: &Context, ends: bool) -> Result<()> {
    context.cryopod()?;
    let program = kept(Program::native("busy_server"));
    let mut scene = Scene::start(context, program)?;
    let port = scene.file("port").context("no port")?.trim().parse()?;
    let stop = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !stop.load(Ordering::Relaxed) {
                        if call(port)? {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let done = disturb(&mut scene, &served, ends);
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller
                .join()
                .map_err(|_| anyhow!("a caller panicked"))?
                .context("a caller")?;
        }
        done
    })?;
    scene.finish()
}

fn disturb(scene: &mut Scene, served: &AtomicU64, ends: bool) -> Result<()> {
    for round in 0..ROUNDS {
        let before = served.load(Ordering::Relaxed);
        poll::until_true("calls to be answered", || {
            served.load(Ordering::Relaxed) > before + 20
        })
        .with_context(|| format!("round {round}"))?;
        if scene.context.without_checkpoint {
            continue;
        }
        let reference = format!("target:round{round}");
        if ends {
            scene.checkpoint_and_stop(&reference)?;
            scene.restore(&reference)?;
        } else {
            scene.checkpoint(&reference)?;
        }
    }
    Ok(())
}

/// A connection that stays in the queue is in the way, and is not harmed.
fn nobody_accepts(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("busy_server").arg("later"))?;
    let port: u16 = scene.file("port").context("no port")?.trim().parse()?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"a")?;
    let root = scene.root.to_string();
    let refused = scene
        .cryopod
        .fails("unsupported", &["checkpoint", &root, "target:never"])?;
    refused
        .says("wait to be accepted")?
        .says("--skip-in-flight")?;
    scene.checkpoint_with("target:without", &["--skip-in-flight"])?;
    scene.tell_to_go()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == b"b", "the answer is {answer:?}");
    scene.finish()
}

/// A server that was handed its listening socket as inetd(8) and systemd do.
fn listener_as_standard_input(context: &Context) -> Result<()> {
    context.cryopod()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let program = Program::native("handed_listener");
    let mut scene = Scene::start_with(context, program, |command| {
        command.stdin(OwnedFd::from(listener));
        Ok(())
    })?;
    scene.put_through_everything()?;
    scene.finish()
}

/// A program that was handed a connection. It is joined to nothing else when connections are taken along.
fn connection_as_standard_input(context: &Context) -> Result<()> {
    context.cryopod()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut peer = TcpStream::connect(listener.local_addr()?)?;
    let (handed, _) = listener.accept()?;
    let program = kept(Program::native("handed_connection"));
    let mut scene = Scene::start_with(context, program, |command| {
        command.stdin(OwnedFd::from(handed));
        Ok(())
    })?;
    if !context.without_checkpoint {
        scene.checkpoint("target:running")?;
        for round in ["target:first", "target:second"] {
            scene.checkpoint_and_stop(round).context(round)?;
            scene.restore(round).context(round)?;
        }
    }
    peer.write_all(b"a")?;
    scene.tell_to_go()?;
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer)?;
    ensure!(answer == b"b", "the answer is {answer:?}");
    scene.finish()
}
