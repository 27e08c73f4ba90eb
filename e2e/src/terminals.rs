//! Pseudo-terminals: both ends inside the tree, and what runs on them.

use crate::harness::scene::survives;
use crate::harness::{Program, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("terminals::both_ends", |c| {
            survives(c, Program::native("terminals"))
        }),
        Test::new("terminals::sessions", |c| {
            survives(c, Program::native("controlled"))
        }),
    ]
}
