//! Signals, and the system calls that they and a freeze interrupt.

use crate::harness::scene::survives;
use crate::harness::{Program, Test};

pub fn tests() -> Vec<Test> {
    // What is pending while a program is busy with signals changes all the time.
    let traffic = &["/SigPnd", "/ShdPnd", "/SigBlk"];
    vec![
        Test::new("signals::actions", |c| {
            survives(c, Program::native("actions"))
        }),
        Test::new("signals::pending_with_what_they_carry", |c| {
            survives(c, Program::native("pending"))
        }),
        Test::new("signals::handlers_that_are_running", |c| {
            survives(c, Program::native("in_handlers"))
        }),
        Test::new("signals::traffic", |c| {
            survives(c, Program::native("signal_traffic").ignoring(traffic))
        }),
        Test::new("signals::interrupted_system_calls", |c| {
            survives(c, Program::native("restart"))
        }),
        Test::new("signals::at_the_death_of_a_parent", |c| {
            survives(c, Program::native("death_signal"))
        }),
    ]
}
