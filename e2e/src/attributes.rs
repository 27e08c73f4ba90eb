//! What a process is besides its memory and descriptors.

use crate::harness::scene::survives;
use crate::harness::{Program, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("attributes::of_every_kind", |c| {
            survives(c, Program::native("attributes"))
        }),
        Test::new("attributes::settings", |c| {
            survives(c, Program::native("settings"))
        }),
        Test::new("attributes::login_user", |c| {
            survives(c, Program::native("login_user"))
        }),
        Test::new("attributes::credentials", |c| {
            survives(c, Program::native("credentials"))
        }),
        Test::new("attributes::tree_of_an_ordinary_user", |c| {
            survives(c, Program::native("ordinary_user"))
        }),
        Test::new("attributes::credentials_of_threads", |c| {
            survives(c, Program::native("thread_credentials"))
        }),
        Test::new("attributes::other_root_directory", |c| {
            survives(c, Program::native("jail"))
        }),
        Test::new("attributes::changed_command_line", |c| {
            survives(c, Program::native("title").arg("").arg("-x y"))
        }),
    ]
}
