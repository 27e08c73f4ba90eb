//! /proc/PID/stat: the fields that only it has.

use super::{misread, read_text};
use crate::error::Result;

/// What is used of /proc/PID/stat, by the names of proc_pid_stat(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and described in proc_pid_stat(5)")]
pub struct Stat {
    pub state: char,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    pub tty_nr: u32,
    pub tpgid: i32,
    pub flags: u32,
    pub start_time: u64,
    pub start_code: u64,
    pub end_code: u64,
    pub start_stack: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub exit_signal: i32,
    pub exit_code: i32,
}

/// Reads /proc/PID/stat.
pub fn read(pid: i32) -> Result<Stat> {
    read_file(pid, "stat")
}

/// Reads /proc/PID/task/TID/stat.
pub fn read_thread(pid: i32, tid: i32) -> Result<Stat> {
    read_file(pid, &format!("task/{tid}/stat"))
}

fn read_file(pid: i32, file: &str) -> Result<Stat> {
    let text = read_text(pid, file)?;
    parse(&text).ok_or_else(|| misread(pid, file, &text))
}

fn parse(text: &str) -> Option<Stat> {
    // The command name stands in parentheses and may hold any byte, so everything counts from the last one.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let address = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        ppid: number(4)? as i32,
        pgrp: number(5)? as i32,
        session: number(6)? as i32,
        tty_nr: number(7)? as u32,
        tpgid: number(8)? as i32,
        flags: number(9)? as u32,
        start_time: address(22)?,
        start_code: address(26)?,
        end_code: address(27)?,
        start_stack: address(28)?,
        start_data: address(45)?,
        end_data: address(46)?,
        start_brk: address(47)?,
        arg_start: address(48)?,
        arg_end: address(49)?,
        env_start: address(50)?,
        env_end: address(51)?,
        exit_signal: number(38)? as i32,
        exit_code: number(52)? as i32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let numbers: String = (4..=52).map(|n| format!(" {n}")).collect();
        let stat = parse(&format!("77 (a) R (b)) S{numbers}\n")).unwrap();
        assert_eq!(
            (stat.state, stat.ppid, stat.session, stat.exit_code),
            ('S', 4, 6, 52)
        );
    }

    #[test]
    fn too_few_fields_are_refused() {
        assert_eq!(parse("1 (x) S 1 2 3"), None);
        assert_eq!(parse(""), None);
    }
}
