//! Unit tests that need a process of their own.
//!
//! Who looks at who else holds a pipe, a socket or a terminal sees more than it asked for while other tests of the same process
//! have children: a child has everything that its parent has open until it executes its program.

use std::process::Command;

const NAME: &str = "CRYOPOD_TEST_ALONE";

/// Runs the body of the calling test in a process in which no other test runs.
#[expect(
    clippy::print_stdout,
    reason = "what the process said belongs to the test"
)]
pub fn alone(body: fn()) {
    let name = match std::thread::current().name() {
        // Without threads, tests run on the main thread, one after another.
        None | Some("main") => return body(),
        Some(name) => name.to_owned(),
    };
    if std::env::var(NAME).is_ok_and(|only| only == name) {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(NAME, &name)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed in its own process");
    assert!(said.contains("1 passed"), "{name} was not found");
}
