//! One flow with eight messages under way, from 64 bytes to 8 MiB: over UDP, through memory and on one host, beside TCP.
//!
//! A client sends, a server returns every message; an answer lets the next message go. The rate counts answers, so as many
//! bytes cross each way. All applications wait as they do by default: those of Machnet with the policy `auto`, TCP's in
//! blocking system calls. TCP with spinning applications is printed beside it; the ratio is to blocking TCP, because that is
//! how programs use it and because neither of the two is always the faster one.

use machnet_benches::command::{self, Found, Server, Up, own_processor_time};
use machnet_benches::rig::{Rig, scratch_directory};
use machnet_benches::roles::role;
use machnet_benches::stats::{median, to_f64};
use machnet_benches::{cpu, figure};
use machnet_engine::config::IdlePolicy;
use machnet_engine::driver::memory::{LARGEST_MAX_DATAGRAM, MemoryNetwork};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZES: [u64; 10] = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB];
/// Messages under way.
const WINDOW: &str = "8";
/// Starts of all processes; a figure is the median of them. The first argument of the bench is another number.
const STARTS: usize = 5;
/// Seconds that a cell is measured, and seconds before.
const SECONDS: f64 = 0.3;
const WARM_UP: f64 = 0.1;
/// The open loop: messages a second, their size, and for how many seconds they are sent.
const RATE: &str = "20000";
const RATE_SIZE: u64 = KIB;
const RATE_SECONDS: f64 = 1.0;

const FIRST: &str = "127.0.0.1";
const SECOND: &str = "127.0.0.2";
const MEMORY_FIRST: &str = "10.0.0.1:31580";
const MEMORY_SECOND: &str = "10.0.0.2:31580";

/// A way from the client to the server and back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcp,
    Udp,
    SameHost,
    Memory,
    TcpSpinning,
}

impl Way {
    const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::SameHost, Self::Memory, Self::TcpSpinning];

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "udp",
            Self::SameHost => "same host",
            Self::Memory => "memory",
            Self::TcpSpinning => "TCP spin",
        }
    }

    /// Copies of each byte of a large message on its way there and back. The servers' own are counted: `machnet bench server`
    /// sends from the received loan, TCP's from its buffer.
    fn copies(self) -> f64 {
        match self {
            // Into the kernel, out of it.
            Self::Tcp | Self::TcpSpinning => 2.0 * 2.0,
            // Into TX buffers, into the datagram, into the kernel, out of it, into RX buffers.
            Self::Udp => 2.0 * 5.0,
            // Into TX buffers, from there to RX buffers.
            Self::SameHost => 2.0 * 2.0,
            // Into TX buffers, into the datagram, into RX buffers.
            Self::Memory => 2.0 * 3.0,
        }
    }
}

/// One measurement of one way and size.
#[derive(Clone, Copy)]
struct Cell {
    report: Found,
    /// Processor time of all processes for each byte there and back, in nanoseconds.
    cpu_ns_per_byte: f64,
}

fn main() -> io::Result<()> {
    if let Some((_, arguments)) = role() {
        return Err(command::become_machnet(&arguments));
    }
    let starts = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(STARTS).max(1);
    let mut table = Table::default();
    let mut memcpy = Vec::new();
    for start in 0..starts {
        memcpy.push(memcpy_rate());
        measure_start(start, &mut table)?;
    }
    let memcpy = median(&memcpy);
    table.print(starts, memcpy);
    let worst = SIZES.iter().map(|&size| table.ratio(Way::Udp, size)).fold(f64::INFINITY, f64::min);
    figure("throughput-udp-over-tcp-worst", worst);
    let bytes = table.rate(Way::SameHost, MIB) * to_f64(MIB);
    figure("throughput-samehost-over-memcpy", bytes * Way::SameHost.copies() / memcpy);
    Ok(())
}

/// Bytes a second that one thread copies in messages of 1 MiB, eight of them, to eight other places: the best of many rounds.
fn memcpy_rate() -> f64 {
    const MESSAGE: usize = 1 << 20;
    const MESSAGES: usize = 8;
    const ROUNDS: usize = 40;
    let source = vec![1_u8; MESSAGE * MESSAGES];
    let mut target = vec![2_u8; MESSAGE * MESSAGES];
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let (took, ()) = cpu::timed(|| {
            for (to, from) in target.chunks_mut(MESSAGE).zip(source.chunks(MESSAGE)) {
                to.copy_from_slice(from);
            }
        });
        best = best.min(took);
        std::hint::black_box(&mut target);
    }
    to_f64((MESSAGE * MESSAGES) as u64) / best.as_secs_f64()
}

/// The processes of one start, all running for all of it; whoever has nothing to do sleeps.
fn measure_start(start: usize, table: &mut Table) -> io::Result<()> {
    let directory = scratch_directory()?;
    let port = free_udp_port()?;
    let first = Up::start(FIRST, port, &[])?;
    let second = Up::start(SECOND, port, &[])?;
    let udp = Server::start(&["--socket", second.socket()])?;
    let same = Server::start(&["--socket", first.socket()])?;
    let tcp = Server::start(&["--over", "tcp", "--address", SECOND])?;
    let spin = Server::start(&["--over", "tcp", "--wait", "spin", "--address", SECOND])?;
    let stage = Stage { udp, same, tcp, spin, first, second };
    for size in SIZES {
        // Another one begins in each start, so that none always follows the same other one.
        for turn in 0..4 {
            let way = [Way::Tcp, Way::Udp, Way::SameHost, Way::TcpSpinning][(turn + start) % 4];
            table.add(way, size, stage.measure(way, size)?);
        }
    }
    for way in [Way::Tcp, Way::Udp, Way::SameHost, Way::TcpSpinning] {
        table.add_at_rate(way, stage.at_rate(way)?);
    }
    drop(stage);
    let outcome = measure_memory(&directory, table);
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn free_udp_port() -> io::Result<u16> {
    for _ in 0..100 {
        let port = UdpSocket::bind((FIRST, 0))?.local_addr()?.port();
        if UdpSocket::bind((SECOND, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no UDP port is free on both 127.0.0.1 and 127.0.0.2"))
}

/// In the order in which they end: a server whose sidecar went first would complain.
struct Stage {
    udp: Server,
    same: Server,
    tcp: Server,
    spin: Server,
    first: Up,
    second: Up,
}

impl Stage {
    fn server(&self, way: Way) -> &Server {
        match way {
            Way::Udp => &self.udp,
            Way::SameHost => &self.same,
            Way::Tcp => &self.tcp,
            Way::TcpSpinning => &self.spin,
            Way::Memory => unreachable!("the memory path has a stage of its own"),
        }
    }

    fn client_arguments(&self, way: Way) -> Vec<&str> {
        match way {
            Way::Tcp => vec!["--over", "tcp"],
            Way::TcpSpinning => vec!["--over", "tcp", "--wait", "spin"],
            _ => vec!["--socket", self.first.socket()],
        }
    }

    /// Processor time of the processes that a way uses, the clients that ended included.
    fn processor_time(&self, way: Way) -> io::Result<Duration> {
        let applications = own_processor_time()? + self.server(way).processor_time()?;
        Ok(match way {
            Way::Udp => applications + self.first.processor_time()? + self.second.processor_time()?,
            Way::SameHost => applications + self.first.processor_time()?,
            _ => applications,
        })
    }

    fn measure(&self, way: Way, size: u64) -> io::Result<Cell> {
        let before = self.processor_time(way)?;
        let report = run_closed(self.server(way).at, size, &self.client_arguments(way))?;
        Ok(cell(report, size, self.processor_time(way)?.saturating_sub(before)))
    }

    fn at_rate(&self, way: Way) -> io::Result<f64> {
        let (size, seconds) = (RATE_SIZE.to_string(), RATE_SECONDS.to_string());
        let rate = ["--rate", RATE, "--size", &size, "--seconds", &seconds, "--warm-up", "0.2"];
        let arguments = [&rate[..], &self.client_arguments(way)].concat();
        Ok(command::client(self.server(way).at, &arguments)?.p999)
    }
}

fn run_closed(server: SocketAddr, size: u64, over: &[&str]) -> io::Result<Found> {
    let (size, seconds, warm_up) = (size.to_string(), SECONDS.to_string(), WARM_UP.to_string());
    let load = ["--window", WINDOW, "--size", &size, "--seconds", &seconds, "--warm-up", &warm_up];
    let report = command::client(server, &[&load[..], over].concat())?;
    if report.wrong > 0 {
        return Err(io::Error::other(format!("{} answers were lost or damaged", report.wrong)));
    }
    Ok(report)
}

/// The processes' time covers the warm-up, in which as many messages a second are taken for granted.
fn cell(report: Found, size: u64, used: Duration) -> Cell {
    let bytes = report.per_second * (SECONDS + WARM_UP) * to_f64(size) * 2.0;
    Cell { report, cpu_ns_per_byte: used.as_secs_f64() * 1e9 / bytes }
}

/// Two engines in this process with a network in memory between them; the applications are processes as elsewhere.
fn measure_memory(directory: &Path, table: &mut Table) -> io::Result<()> {
    let addresses: [SocketAddr; 2] =
        [MEMORY_FIRST, MEMORY_SECOND].map(|address| address.parse().expect("an address"));
    let mut ends = MemoryNetwork::open(&addresses, LARGEST_MAX_DATAGRAM).into_iter();
    let [Some(first), Some(second)] = [ends.next(), ends.next()] else {
        return Err(io::Error::other("a network of two has two ends"));
    };
    let socket = |name: &str| directory.join(format!("memory-{name}.sock"));
    let [mut first, mut second] = [(first, "first"), (second, "second")].map(|(driver, name)| {
        Rig::over(driver, |config| {
            config.socket = socket(name);
            config.idle = IdlePolicy::Auto;
        })
    });
    let paths = ["first", "second"].map(|name| socket(name).to_string_lossy().into_owned());
    first.while_running(|_| {
        second.while_running(|_| {
            let server = Server::start(&["--socket", &paths[1]])?;
            for size in SIZES {
                // The engines' threads are this process's.
                let before = own_processor_time()? + server.processor_time()?;
                let report = run_closed(server.at, size, &["--socket", &paths[0]])?;
                let used = (own_processor_time()? + server.processor_time()?).saturating_sub(before);
                table.add(Way::Memory, size, cell(report, size, used));
            }
            Ok(())
        })
    })
}

#[derive(Default)]
struct Table {
    cells: Vec<(Way, u64, Cell)>,
    at_rate: Vec<(Way, f64)>,
}

impl Table {
    fn add(&mut self, way: Way, size: u64, cell: Cell) {
        self.cells.push((way, size, cell));
    }

    fn add_at_rate(&mut self, way: Way, p999: f64) {
        self.at_rate.push((way, p999));
    }

    /// One value of all starts of a way and size, in the order of the starts.
    fn values(&self, way: Way, size: u64, value: impl Fn(&Cell) -> f64) -> Vec<f64> {
        let of = |(w, s, _): &&(Way, u64, Cell)| *w == way && *s == size;
        self.cells.iter().filter(of).map(|(_, _, cell)| value(cell)).collect()
    }

    fn rate(&self, way: Way, size: u64) -> f64 {
        median(&self.values(way, size, |cell| cell.report.per_second))
    }

    fn cpu_ns_per_byte(&self, way: Way, size: u64) -> f64 {
        median(&self.values(way, size, |cell| cell.cpu_ns_per_byte))
    }

    /// Rate over TCP's: the median of the starts' ratios.
    fn ratio(&self, way: Way, size: u64) -> f64 {
        let rates = |way| self.values(way, size, |cell| cell.report.per_second);
        let ratios: Vec<f64> = rates(way).iter().zip(rates(Way::Tcp)).map(|(rate, tcp)| rate / tcp).collect();
        median(&ratios)
    }

    fn print(&self, starts: usize, memcpy: f64) {
        println!(
            "One flow, {WINDOW} messages under way, each returned by the server; medians of {starts} starts."
        );
        println!("\nThousand messages a second, and over TCP (blocking):\n");
        self.print_rows(|way, size| {
            format!("{:8.2} {:5.2}", self.rate(way, size) / 1e3, self.ratio(way, size))
        });
        println!("\nMB (10^6 bytes) a second, each way:\n");
        self.print_rows(|way, size| format!("{:14.0}", self.rate(way, size) * to_f64(size) / 1e6));
        println!("\nProcessor time of all processes for a byte, in ns, each way counted:\n");
        self.print_rows(|way, size| format!("{:14.3}", self.cpu_ns_per_byte(way, size)));
        if let Some(gigahertz) = clock_gigahertz() {
            println!("\nThe same in cycles of the processor's nominal {gigahertz:.2} GHz:\n");
            self.print_rows(|way, size| format!("{:14.2}", self.cpu_ns_per_byte(way, size) * gigahertz));
        }
        println!(
            "\nPer cent of that time that the copies would take at this machine's memcpy rate, {:.1} GB/s",
            memcpy / 1e9
        );
        println!(
            "(8 times 1 MiB to 8 other places, one thread, the best round); it is computed from the number of copies"
        );
        println!("of each byte, not observed, and caches make it less or more:\n");
        self.print_rows(|way, size| {
            let copies_ns = way.copies() / 2.0 * 1e9 / memcpy;
            format!("{:14.0}", 100.0 * copies_ns / self.cpu_ns_per_byte(way, size))
        });
        println!(
            "\n{RATE} messages of {RATE_SIZE} B a second, whether answers come or not: 99.9 of 100 came, counted from the"
        );
        println!("time at which the question was to be sent, within");
        for way in [Way::Tcp, Way::Udp, Way::SameHost, Way::TcpSpinning] {
            let all: Vec<f64> = self.at_rate.iter().filter(|(w, _)| *w == way).map(|&(_, us)| us).collect();
            println!("  {:10} {:8.0} us", way.name(), median(&all));
        }
    }

    fn print_rows(&self, cell: impl Fn(Way, u64) -> String) {
        print!("{:>9}", "bytes");
        for way in Way::ALL {
            print!("  {:>14}", way.name());
        }
        println!();
        for size in SIZES {
            print!("{size:>9}");
            for way in Way::ALL {
                print!("  {}", cell(way, size));
            }
            println!();
        }
    }
}

/// What the kernel says of the first processor's clock.
fn clock_gigahertz() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let megahertz: f64 = line.rsplit(':').next()?.trim().parse().ok()?;
    Some(megahertz / 1e3)
}
