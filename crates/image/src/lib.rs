//! Checkpoint image formats and nothing else: no process is touched here, nothing is sent anywhere.

pub mod criu;
