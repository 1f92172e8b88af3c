//! Sidecars as they run, in this process: engines in threads of their own over the kernel's UDP sockets, each host at a
//! loopback address of its own, and the kernel's hash between the engines of a host.

use crate::rig;
use machnet_client::AttachOptions;
use machnet_engine::config::{Config, IdlePolicy, Spread};
use machnet_engine::sidecar::Sidecar;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

/// The loopback addresses of a bench, one after the other, and the UDP port of all its sidecars.
#[derive(Debug)]
pub struct Addresses {
    next: u32,
    udp_port: u16,
}

impl Addresses {
    /// From 127.64.0.1 on, with a port that was free just now.
    pub fn new() -> io::Result<Self> {
        let udp_port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { next: Ipv4Addr::new(127, 64, 0, 0).to_bits(), udp_port })
    }

    /// A sidecar with so many engines where none was before, so that nobody has learned anything of it.
    pub fn host(&mut self, engines: u32, spread: Spread) -> io::Result<Host> {
        self.next += 1;
        Host::start(IpAddr::V4(Ipv4Addr::from_bits(self.next)), self.udp_port, engines, spread)
    }
}

/// One sidecar, and its directory.
#[derive(Debug)]
pub struct Host {
    sidecar: Sidecar,
    directory: PathBuf,
}

impl Host {
    fn start(address: IpAddr, udp_port: u16, engines: u32, spread: Spread) -> io::Result<Self> {
        let directory = rig::scratch_directory()?;
        // More engines than processors must let each other run.
        let config =
            Config { address, udp_port, engines, spread, idle: IdlePolicy::Auto, ..rig::config(&directory) };
        let sidecar = Sidecar::start(&config).map_err(io::Error::other)?;
        Ok(Self { sidecar, directory })
    }

    /// How to attach to one of its engines.
    pub fn options(&self, engine: u32) -> AttachOptions {
        AttachOptions::new().socket(self.sidecar.socket()).engine(engine)
    }

    /// A port of it.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.sidecar.local_address().ip(), port)
    }

    /// A counter, summed over its engines.
    pub fn count(&self, name: &str) -> io::Result<u64> {
        let counter = |counters: &std::collections::BTreeMap<String, u64>| counters.get(name).copied();
        let counts: Option<Vec<_>> = rig::status(self.sidecar.socket())?
            .engines
            .iter()
            .map(|engine| counter(&engine.counters))
            .collect();
        counts.map(|counts| counts.iter().sum()).ok_or_else(|| io::Error::other(format!("no counter {name}")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _: io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}
