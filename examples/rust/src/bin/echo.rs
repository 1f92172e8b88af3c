//! Echo server and client.
fn main() {}
