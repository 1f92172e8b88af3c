//! Instruction counts: the same for the same program and input, whatever else the machine does.
//!
//! The bench runs itself under valgrind in a role, and callgrind counts only inside functions of one name. What happens
//! before (attaching, connecting, first touches of memory) is not counted.

use crate::roles;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether valgrind is there.
pub fn is_installed() -> bool {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Runs this program in a role and answers how many instructions it spent inside the functions whose name `pattern` fits
/// (`*` stands for anything), callees included.
pub fn count(role: &str, arguments: &[&str], pattern: &str) -> io::Result<u64> {
    let directory = crate::rig::scratch_directory()?;
    let output = directory.join("callgrind.out");
    let counted = run(role, arguments, pattern, &output).and_then(|()| std::fs::read_to_string(&output));
    let _: io::Result<()> = std::fs::remove_dir_all(&directory);
    let text = counted?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let totals = totals.and_then(|totals| totals.trim().parse().ok());
    totals.ok_or_else(|| io::Error::other("callgrind wrote no totals"))
}

fn run(role: &str, arguments: &[&str], pattern: &str, output: &Path) -> io::Result<()> {
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--error-exitcode=0", "--quiet"])
        .arg(format!("--toggle-collect={pattern}"))
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(std::env::current_exe()?)
        .args(["--role", role])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()?;
    let succeeded = roles::wait_with_open_input(&mut child)?;
    if succeeded { Ok(()) } else { Err(io::Error::other(format!("the role {role} failed under valgrind"))) }
}
