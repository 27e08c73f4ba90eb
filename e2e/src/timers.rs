//! Timers of every kind, and the clocks.

use crate::harness::scene::survives;
use crate::harness::{Program, Test};

pub fn tests() -> Vec<Test> {
    let ticking = &["/SigPnd", "/ShdPnd", "/SigBlk"];
    vec![
        Test::new("timers::itimers", |c| {
            survives(c, Program::native("itimers").ignoring(ticking))
        }),
        Test::new("timers::alarm", |c| {
            survives(c, Program::native("alarm_").ignoring(ticking))
        }),
        Test::new("timers::posix_timers", |c| {
            survives(c, Program::native("posix_timers"))
        }),
        Test::new("timers::that_start_threads", |c| {
            // A thread for each expiry comes and goes.
            survives(
                c,
                Program::native("timer_threads")
                    .ignoring(&["/thread", "/map ", "/SigBlk", "/SigPnd", "/ShdPnd"]),
            )
        }),
        Test::new("timers::clocks_and_the_vdso", |c| {
            survives(c, Program::native("clocks"))
        }),
    ]
}
