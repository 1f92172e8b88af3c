//! `machnet bench server`: returns every message. Each connection has a thread of its own.

use super::kernel::{LENGTH_BYTES, READ_BYTES, enlarge_buffers};
use super::{Over, ServerArguments};
use crate::cli::peer::Wait;
use crate::cli::{Exit, Failure, Outcome, say, sys};
use machnet_client::{Error, Flow};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Most connections served at a time; further ones are closed at once.
const MAX_SERVED: usize = 1024;
/// Longest TCP message that the server believes in.
const MAX_LENGTH: usize = super::MAX_MESSAGE;

pub(super) fn run(arguments: &ServerArguments) -> Outcome {
    match arguments.common.over {
        Over::Machnet => serve_machnet(arguments),
        Over::Tcp => serve_tcp(arguments),
        Over::Udp => serve_udp(arguments),
    }
}

fn address_of(arguments: &ServerArguments) -> SocketAddr {
    SocketAddr::new(arguments.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), arguments.port)
}

fn announce(arguments: &ServerArguments, local: SocketAddr) {
    let over = arguments.common.over.name();
    if arguments.common.json {
        say(serde_json::json!({ "serving": local.to_string(), "over": over }));
        return;
    }
    let port = if local.port() == super::DEFAULT_PORT { String::new() } else { format!(":{}", local.port()) };
    let host = if local.ip().is_unspecified() { "HOST".to_owned() } else { local.ip().to_string() };
    let flag = if arguments.common.over == Over::Machnet { String::new() } else { format!(" --over {over}") };
    say(format_args!(
        "serving on {local} over {over}; on the other host: machnet bench client {host}{port}{flag}"
    ));
}

/// Counts the threads at work, so that they stay bounded.
#[derive(Clone, Default)]
struct Served(Arc<AtomicUsize>);

impl Served {
    /// Serves one connection on a thread, or nothing if there are too many.
    fn spawn(&self, serve: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= MAX_SERVED {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let served = self.clone();
        let work = move || {
            serve();
            served.0.fetch_sub(1, Ordering::Relaxed);
        };
        thread::Builder::new().name("connection".to_owned()).spawn(work).ok()
    }
}

/// With `--once`, the end of the first connection is the end of the server.
fn ends_now(arguments: &ServerArguments, thread: Option<JoinHandle<()>>) -> bool {
    arguments.once && thread.is_some_and(|thread| thread.join().is_ok())
}

fn serve_machnet(arguments: &ServerArguments) -> Outcome {
    let common = &arguments.common;
    let options = common.attach.options("machnet bench server").wait_policy(common.wait.policy());
    let attachment = options.attach()?;
    let listener = attachment.listen(address_of(arguments), 0)?;
    announce(arguments, listener.local_addr());
    let served = Served::default();
    loop {
        let flow = listener.accept()?;
        if ends_now(arguments, served.spawn(move || echo_flow(flow))) {
            return attachment.close().map_err(Failure::from);
        }
    }
}

fn echo_flow(flow: Flow) {
    let end = loop {
        match flow.recv().and_then(|message| flow.send(&message)) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    if !matches!(end, Error::Closed | Error::Reset { .. } | Error::EngineLost) {
        crate::cli::complain(format_args!("machnet: connection from {}: {end}", flow.peer_addr()));
    }
}

fn serve_tcp(arguments: &ServerArguments) -> Outcome {
    let address = address_of(arguments);
    let listener = TcpListener::bind(address).map_err(|error| cannot_listen(address, &error))?;
    announce(arguments, listener.local_addr().map_err(anyhow::Error::from)?);
    let served = Served::default();
    let spins = arguments.common.wait == Wait::Spin;
    loop {
        let (stream, _) = listener.accept().map_err(anyhow::Error::from)?;
        // The end of a connection, however it comes, is the client's business.
        let serve = move || drop(echo_stream(&stream, spins));
        if ends_now(arguments, served.spawn(serve)) {
            return Ok(());
        }
    }
}

/// Receives as [`sys::receive`] does, and either sleeps or spins until something is there.
fn receive(stream: &TcpStream, buffer: &mut [u8], spins: bool) -> io::Result<usize> {
    loop {
        match sys::receive(stream.as_fd(), buffer, !spins) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            result => return result,
        }
    }
}

/// Returns whole messages, as a server does that must see a request before it answers.
fn echo_stream(mut stream: &TcpStream, spins: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let mut used = 0;
        // All whole messages that one receive brought go back with one send.
        while let Some(head) = buffer[used..filled].first_chunk::<LENGTH_BYTES>() {
            let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
            if length > MAX_LENGTH {
                return Err(io::Error::new(ErrorKind::InvalidData, "not a message of machnet bench"));
            }
            if buffer.len() < LENGTH_BYTES + length {
                buffer.resize(LENGTH_BYTES + length, 0);
            }
            if filled - used < LENGTH_BYTES + length {
                break;
            }
            used += LENGTH_BYTES + length;
        }
        stream.write_all(&buffer[..used])?;
        buffer.copy_within(used..filled, 0);
        filled -= used;
        match receive(stream, &mut buffer[filled..], spins)? {
            0 => return Ok(()),
            count => filled += count,
        }
    }
}

fn serve_udp(arguments: &ServerArguments) -> Outcome {
    let address = address_of(arguments);
    let socket = UdpSocket::bind(address).map_err(|error| cannot_listen(address, &error))?;
    enlarge_buffers(&socket);
    let spins = arguments.common.wait == Wait::Spin;
    socket.set_nonblocking(spins).map_err(anyhow::Error::from)?;
    announce(arguments, socket.local_addr().map_err(anyhow::Error::from)?);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.recv_from(&mut buffer) {
            // An answer that the socket does not take is lost, as datagrams may be.
            Ok((length, peer)) => drop(socket.send_to(&buffer[..length], peer)),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(Failure::new(Exit::Failed, format!("cannot receive: {error}"))),
        }
    }
}

/// What a UDP socket reports now and then although it goes on working: nothing there, or an answer that nobody took.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused)
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot listen on {address}: {error}"))
}
