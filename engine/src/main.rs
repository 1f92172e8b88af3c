//! The machnet command.
fn main() {}
