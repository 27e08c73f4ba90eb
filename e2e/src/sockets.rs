//! Sockets: who is connected to whom, what waits in them, what they are called.

use crate::harness::context::needs;
use crate::harness::scene::survives;
use crate::harness::{Context, Program, Test};

pub fn tests() -> Vec<Test> {
    let native = |name: &'static str| move |c: &Context| survives(c, Program::native(name));
    vec![
        Test::new("sockets::unix_pairs", native("unix_pairs")),
        Test::new("sockets::unix_listeners", native("unix_listeners")),
        Test::new("sockets::unix_paths", native("unix_paths")),
        Test::new("sockets::unix_datagrams", native("unix_datagrams")),
        Test::new("sockets::unix_rights", native("unix_rights")),
        Test::new(
            "sockets::unix_epoll_in_flight",
            native("unix_epoll_in_flight"),
        ),
        Test::new("sockets::unix_options", native("unix_options")),
        Test::new("sockets::asyncio_over_socketpairs", asyncio),
    ]
}

/// Python's asyncio with subprocesses whose standard streams are socketpairs, and a server at a path.
fn asyncio(context: &Context) -> anyhow::Result<()> {
    needs("python3")?;
    let program = Program::command("python3")
        .arg("-c")
        .arg(include_str!("../programs/asyncio.py"));
    survives(
        context,
        program.ignoring(&["/map ", "/VmLck", "/SigCgt", "/SigIgn"]),
    )
}
