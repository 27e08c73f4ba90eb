//! What the tests are made of.
//!
//! - [`context`]: one run of the tests: where cryopod and the target programs are, what was skipped;
//! - [`program`]: a target program to be started;
//! - [`scene`]: one target in a directory of its own with a store of its own, and what is done to it;
//! - [`cryopod`]: running the command and reading what it says;
//! - [`snapshot`]: a process tree as /proc shows it, and the difference between two of them;
//! - [`processes`]: looking for, waiting for and ending processes;
//! - [`poll`]: waiting for something to become so.

pub mod context;
pub mod cryopod;
pub mod poll;
pub mod processes;
pub mod program;
pub mod scene;
pub mod snapshot;

pub use context::{Context, Test};
pub use program::Program;
pub use scene::Scene;
