//! Echo over Machnet: a server that answers every message with itself, and a client that checks the answers.
//!
//! ```text
//! echo server ADDRESS:PORT
//! echo client ADDRESS:PORT [SIZE [COUNT]]
//! ```
//!
//! Talks to the sidecar of `$MACHNET_SOCKET`, or else of the user, or else of the system. It speaks with the same program in
//! every other language: see `examples/c/echo.c`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use machnet_client::{Error, Flow};

const USAGE: &str = "usage: echo server ADDRESS:PORT\n       echo client ADDRESS:PORT [SIZE [COUNT]]";

/// Accepts flows until the program is ended, each with a thread of its own.
fn server(address: SocketAddr) -> Result<(), Error> {
    let machnet = machnet_client::attach()?;
    let listener = machnet.listen(address, 128)?;
    println!("listening on {}", listener.local_addr());
    loop {
        let flow = listener.accept()?;
        std::thread::spawn(move || match serve(&flow) {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => eprintln!("echo: flow of {} ended: {error}", flow.peer_addr()),
        });
    }
}

/// Answers each message until the peer closes. The answer is sent from where the message lies: no copy here.
fn serve(flow: &Flow) -> Result<(), Error> {
    loop {
        let message = flow.recv()?;
        flow.send(&message)?;
    }
}

fn client(address: SocketAddr, size: usize, count: usize) -> Result<(), Error> {
    let machnet = machnet_client::attach()?;
    let flow = machnet.connect(address)?;
    for number in 0..count {
        let request: Vec<u8> = (0..size).map(|index| (index + number).to_le_bytes()[0]).collect();
        flow.send(&request)?;
        let answer = flow.recv()?;
        assert!(*answer == *request, "answer {number} differs from its request");
    }
    flow.close_wait(Duration::from_secs(5))?;
    println!("{count} messages of {size} bytes came back intact");
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((role, address)) = role_and_address(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let number = |place: usize, otherwise| arguments.get(place).map_or(Ok(otherwise), |text| text.parse());
    let outcome = match (role, number(2, 64), number(3, 10)) {
        ("server", ..) => server(address),
        ("client", Ok(size), Ok(count)) => client(address, size, count),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn role_and_address<'a>(arguments: &[&'a str]) -> Option<(&'a str, SocketAddr)> {
    match arguments {
        [role, address, ..] => Some((role, address.parse().ok()?)),
        _ => None,
    }
}
