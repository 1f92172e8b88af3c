//! System calls of a role by name, as strace counts them.

use crate::roles;
use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Stdio};

/// Runs this program in a role under strace and answers how often it, with all its threads, made each system call. An error
/// where strace is missing or may not trace.
pub fn count(role: &str, arguments: &[&str]) -> io::Result<BTreeMap<String, u64>> {
    let directory = crate::rig::scratch_directory()?;
    let output = directory.join("strace.out");
    let traced = Command::new("strace")
        .args(["-f", "-c", "-U", "name,calls", "-o"])
        .arg(&output)
        .arg(std::env::current_exe()?)
        .args(["--role", role])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .and_then(|mut child| roles::wait_with_open_input(&mut child))
        .and_then(|succeeded| if succeeded { Ok(()) } else { Err(io::Error::other("strace failed")) })
        .and_then(|()| std::fs::read_to_string(&output));
    let _: io::Result<()> = std::fs::remove_dir_all(&directory);
    let counts: BTreeMap<String, u64> = traced?.lines().filter_map(parse).collect();
    if counts.is_empty() { Err(io::Error::other("strace counted nothing")) } else { Ok(counts) }
}

/// A line `name calls`; not the head, the rule or the sum.
fn parse(line: &str) -> Option<(String, u64)> {
    let (name, calls) = line.trim().split_once(char::is_whitespace)?;
    (name != "total").then_some((name.to_owned(), calls.trim().parse().ok()?))
}
