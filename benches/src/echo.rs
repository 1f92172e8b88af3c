//! Servers for clients in other processes that take no processor of their own: one thread is the engine and the server.
//!
//! Beside them, with the same echo, what the clients of other transports talk to: kernel TCP, and bare pipes that ring.

use crate::{cpu, rig};
use machnet_client::{AttachOptions, Channel, Error, FlowId, ListenerId, Message};
use machnet_engine::driver::memory::MemoryDriver;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Messages of one flow that are answered before the engine has its next turn.
const MOST_A_TURN: usize = 32;
/// With flows, listeners are looked at in one of so many turns.
const TURNS_PER_ACCEPT: u32 = 256;
/// The largest piece of a byte stream that is sent back at once.
const PIECE: usize = 256 * 1024;

/// The time of `CLOCK_MONOTONIC` in nanoseconds, which all processes of the machine share.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

/// Rings to come.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    left: u64,
    pause: Duration,
    next: Instant,
}

impl Ticks {
    fn new(count: u64, pause: Duration) -> Self {
        Self { left: count, pause, next: cpu::now() + pause }
    }

    /// Whether one is due, which is counted.
    fn is_due(&mut self) -> bool {
        let now = cpu::now();
        if self.left == 0 || now < self.next {
            return false;
        }
        self.left -= 1;
        self.next = now + self.pause;
        true
    }
}

/// A flow that is answered.
#[derive(Debug)]
struct Peer {
    flow: FlowId,
    /// What there was no credit for.
    unsent: Option<Message>,
    /// A ticker's, once the client has said how many it wants.
    ticks: Option<Ticks>,
    is_ticker: bool,
}

/// An application that sends back what it receives, and one that sends the time, in steps beside their engine.
#[derive(Debug)]
pub struct Echo {
    channel: Channel,
    listeners: [ListenerId; 2],
    peers: Vec<Peer>,
    turns: u32,
}

impl Echo {
    /// Attaches and listens; `echo` and `ticker` are ports.
    pub fn open(options: AttachOptions, echo: u16, ticker: u16) -> Self {
        let mut channel = options.attach_channel().expect("the sidecar is there");
        let listeners = [echo, ticker].map(|port| {
            let any = SocketAddr::from(([0, 0, 0, 0], port));
            channel.listen(any, 0).expect("the port is free").0
        });
        Self { channel, listeners, peers: Vec::new(), turns: 0 }
    }

    /// Takes new flows, and answers what has come.
    pub fn turn(&mut self) {
        self.turns = self.turns.wrapping_add(1);
        if self.peers.is_empty() || self.turns.is_multiple_of(TURNS_PER_ACCEPT) {
            for (listener, is_ticker) in self.listeners.into_iter().zip([false, true]) {
                while let Some(flow) = self.channel.try_accept(listener).expect("the listener lives") {
                    self.peers.push(Peer { flow, unsent: None, ticks: None, is_ticker });
                }
            }
        }
        let channel = &mut self.channel;
        self.peers.retain_mut(|peer| {
            let served = if peer.is_ticker { peer.tick(channel) } else { peer.answer(channel) };
            match served {
                Ok(()) | Err(Error::WouldBlock) => true,
                Err(Error::Closed | Error::Reset { .. }) => {
                    let _: Result<(), Error> = channel.close_flow(peer.flow); // It has ended.
                    false
                }
                Err(error) => panic!("the server of the bench: {error}"),
            }
        });
    }
}

impl Peer {
    fn answer(&mut self, channel: &mut Channel) -> Result<(), Error> {
        for _ in 0..MOST_A_TURN {
            let next = match self.unsent.take() {
                Some(message) => Some(message),
                None => channel.try_recv(self.flow)?,
            };
            let Some(message) = next else { break };
            if let Err(error) = channel.try_send(self.flow, &message) {
                self.unsent = Some(message);
                return Err(error);
            }
        }
        Ok(())
    }

    fn tick(&mut self, channel: &mut Channel) -> Result<(), Error> {
        if let Some(asked) = channel.try_recv(self.flow)? {
            let number = |at: usize| {
                asked.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes)
            };
            let (Some(count), Some(pause)) = (number(0), number(8)) else {
                return Err(Error::Closed);
            };
            self.ticks = Some(Ticks::new(count, Duration::from_micros(pause)));
        }
        if self.ticks.as_mut().is_some_and(Ticks::is_due) {
            channel.try_send(self.flow, &monotonic_ns().to_le_bytes())?;
        }
        Ok(())
    }
}

/// Runs something while one thread, on the first processor, is the engine of `rig` and the server.
pub fn beside_engine<T>(rig: &mut rig::Rig<MemoryDriver>, server: &mut Echo, run: impl FnOnce() -> T) -> T {
    beside(
        |done| {
            while !done.load(Ordering::Relaxed) {
                rig.step();
                server.turn();
            }
        },
        run,
    )
}

/// Runs something while a thread on the first processor runs `serve` until it is told to end.
fn beside<T>(serve: impl FnOnce(&AtomicBool) + Send, run: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cpu::pin(&cpu::available(), 0);
            serve(&done);
        });
        let outcome = run();
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Runs something while a thread on the first processor sends back whatever comes over one TCP connection, and sleeps
/// meanwhile, as servers do. `run` gets the address.
pub fn beside_tcp<T>(run: impl FnOnce(SocketAddr) -> T) -> io::Result<T> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    Ok(beside(
        |_| {
            // A client that goes away without a close ends the connection as well.
            let _: io::Result<()> = listener.accept().and_then(|(stream, _)| answer_bytes(stream));
        },
        || {
            let outcome = run(at);
            let _: io::Result<TcpStream> = TcpStream::connect(at); // If nobody came, the thread still waits.
            outcome
        },
    ))
}

fn answer_bytes(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => stream.write_all(&piece[..count])?,
        }
    }
}

/// A FIFO, and a Unix socket `FIFO.sock` for those that cannot wait for one.
#[derive(Debug)]
pub struct Pipes {
    fifo: PathBuf,
    socket: UnixListener,
}

impl Pipes {
    /// Makes both in a directory.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let fifo = directory.join("pipe");
        if !Command::new("mkfifo").arg(&fifo).status()?.success() {
            return Err(io::Error::other("mkfifo failed"));
        }
        let socket = UnixListener::bind(directory.join("pipe.sock"))?;
        socket.set_nonblocking(true)?;
        Ok(Self { fifo, socket })
    }

    /// Where the FIFO is.
    pub fn path(&self) -> &Path {
        &self.fifo
    }

    /// Runs something while a thread on the first processor writes the time to whoever opens the FIFO or connects, so many times.
    pub fn beside<T>(&self, count: u64, pause: Duration, run: impl FnOnce() -> T) -> T {
        beside(
            |done| {
                // Who has left is rung no more.
                let _: io::Result<()> = self.ring(count, pause, done);
            },
            run,
        )
    }

    fn ring(&self, count: u64, pause: Duration, done: &AtomicBool) -> io::Result<()> {
        let Some(mut listener) = self.listener(done)? else { return Ok(()) };
        let mut ticks = Ticks::new(count, pause);
        while ticks.left > 0 && !done.load(Ordering::Relaxed) {
            if ticks.is_due() {
                listener.write_all(&monotonic_ns().to_le_bytes())?;
            }
            std::hint::spin_loop();
        }
        // Open until the client has read the last.
        while !done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until somebody listens.
    fn listener(&self, done: &AtomicBool) -> io::Result<Option<Box<dyn Write>>> {
        while !done.load(Ordering::Relaxed) {
            match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.fifo) {
                Ok(file) => return Ok(Some(Box::<File>::new(file))),
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {} // Nobody has it open.
                Err(error) => return Err(error),
            }
            match self.socket.accept() {
                Ok((stream, _)) => return Ok(Some(Box::new(stream))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }
}
