//! The drivers beside each other and beside the kernel's own UDP and TCP, on one pair of virtual interfaces between two network
//! namespaces; DPDK's shared memory (memif) between two processes.
//!
//! Four processes share two processors: client, sidecar, sidecar, server. They wait by the rule `auto`. Beside them what no
//! driver can save: the same six hops over bare rings, and the round trip of bare frames. All of it once more under SCHED_FIFO.
//! Then the paper's figure 5: the round trip of one message at a time while others load the path.
//!
//! The first argument is another number of starts.

use machnet_benches::chain::Trips;
use machnet_benches::command::{self, Found};
use machnet_benches::paths::{Floor, Kernel, Level, Path, Stage};
use machnet_benches::stats::median;
use machnet_benches::{figure, network, paths, place, roles};
use std::io;

/// Starts of all processes, taken in turns; a figure is the median of them.
const STARTS: usize = 5;
/// Of those under SCHED_FIFO, and of those under load.
const FURTHER_STARTS: usize = 1;
/// Load of the path in per cent of what it carried with 32 messages under way.
const LOADS: [u32; 5] = [20, 40, 60, 80, 100];
/// Messages under way of the rows of the table, and bytes of each.
const CELLS: [(&str, &str); 4] = [("1", "64"), ("8", "64"), ("32", "64"), ("8", "32k")];
const TIMES: [&str; 4] = ["--seconds", "0.15", "--warm-up", "0.05"];

fn main() -> io::Result<()> {
    if let Some((role, arguments)) = roles::role() {
        return match role.as_str() {
            command::ROLE => Err(command::become_machnet(&arguments)),
            network::ROLE => network::hold(),
            _ => {
                // A line for the bench to show, not the debug form of the error.
                paths::act(&role, &arguments).or_else(|error| {
                    eprintln!("{error}");
                    std::process::exit(1)
                })
            }
        };
    }
    let starts = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(STARTS).max(1);
    let further = if starts > STARTS { 2 * FURTHER_STARTS } else { FURTHER_STARTS };
    let stage = match Stage::new() {
        Ok(stage) => stage,
        Err(reason) => {
            println!("SKIPPED everything: {reason}");
            return Ok(());
        }
    };
    let (paths, mut floors) = what_runs(&stage);
    let fair = measure(&stage, &paths, &floors, starts)?;
    println!("\n== processes scheduled as they are by default, medians of {starts} starts\n");
    print_table(&fair);
    print_floors(&fair);
    println!("\n== the same under SCHED_FIFO (chrt -f 10), medians of {further} starts\n");
    match place::may_be_realtime() {
        Ok(()) => {
            floors.retain(|&floor| Stage::is_possible_in_realtime(floor));
            println!(
                "SKIPPED below sidecars over memif: DPDK's own threads and two processes that look on without end do not"
            );
            println!("come up together on two processors under one priority.\n");
            let realtime = measure(&stage.realtime(), &paths, &floors, further)?;
            print_table(&realtime);
            print_floors(&realtime);
        }
        Err(reason) => println!("SKIPPED: {reason}"),
    }
    print_loads(&stage, &paths, &fair, further)?;
    println!();
    print_figures(&fair);
    Ok(())
}

/// What this machine has, by trying each; what it has not is named with the reason.
fn what_runs(stage: &Stage) -> (Vec<Path>, Vec<Floor>) {
    let mut paths = Path::ALL.to_vec();
    paths.retain(|&path| match stage.open(path) {
        Ok(_) => true,
        Err(reason) => {
            println!("SKIPPED {}: {reason}", path.name());
            false
        }
    });
    let mut floors = Floor::all();
    floors.retain(|floor| floor.path().is_none_or(|path| paths.contains(&path)));
    (paths, floors)
}

/// What one start found.
struct Start {
    paths: Vec<(Path, [Found; CELLS.len()])>,
    floors: Vec<(Floor, Trips)>,
}

impl Start {
    fn measure_floors(&mut self, stage: &Stage, floors: &[Floor], path: Option<Path>) {
        for &floor in floors.iter().filter(|floor| floor.path() == path) {
            match stage.floor(floor, 1) {
                Ok(trips) => self.floors.push((floor, trips)),
                Err(reason) => println!("not measured in one start: {}: {reason}", floor.name()),
            }
        }
    }

    fn path(&self, path: Path) -> Option<&[Found; CELLS.len()]> {
        self.paths.iter().find(|(one, _)| *one == path).map(|(_, cells)| cells)
    }

    fn floor_p50(&self, floor: Floor) -> Option<f64> {
        self.floors.iter().find(|(one, _)| *one == floor).map(|(_, trips)| trips.p50)
    }

    /// Round trips with 32 under way over those of the faster of the kernel's two ways with TCP.
    fn over_tcp(&self, path: Path) -> Option<f64> {
        let rate = |path| Some(self.path(path)?[2].per_second);
        let tcp = Kernel::TCP.iter().filter_map(|&kernel| rate(Path::Kernel(kernel))).fold(0.0, f64::max);
        Some(rate(path)? / tcp).filter(|ratio| ratio.is_finite())
    }

    /// The round trip over that of six bare hops and, of a wire that costs something, of its bare frames.
    fn over_bare(&self, path: Path) -> Option<f64> {
        let bare = match path {
            Path::Memif => self.floor_p50(Floor::Rings)?,
            _ => self.floor_p50(Floor::Rings)? + self.floor_p50(Floor::Pair(path, Level::Frames))?,
        };
        Some(self.path(path)?[0].p50 / bare)
    }

    fn engine_over_raw(&self, path: Path) -> Option<f64> {
        let p50 = |level| self.floor_p50(Floor::Pair(path, level));
        Some(p50(Level::Messages)? / p50(Level::Frames)?)
    }
}

fn measure(stage: &Stage, paths: &[Path], floors: &[Floor], starts: usize) -> io::Result<Vec<Start>> {
    let mut all = Vec::new();
    for _ in 0..starts {
        let mut start = Start { paths: Vec::new(), floors: Vec::new() };
        start.measure_floors(stage, floors, None);
        for &path in paths {
            start.paths.push((path, measure_path(stage, path)?));
            // Beside what stands on it: between starts the machine changes.
            start.measure_floors(stage, floors, Some(path));
        }
        all.push(start);
    }
    Ok(all)
}

fn measure_path(stage: &Stage, path: Path) -> io::Result<[Found; CELLS.len()]> {
    let open = stage.open(path).map_err(|error| io::Error::other(format!("{}: {error}", path.name())))?;
    let mut cells = [Found::default(); CELLS.len()];
    for (cell, (window, size)) in cells.iter_mut().zip(CELLS) {
        let load = ["--window", window, "--size", size];
        *cell = open.client(&[&load[..], &TIMES].concat())?.found()?;
    }
    Ok(cells)
}

fn middle(starts: &[Start], of: impl Fn(&Start) -> Option<f64>) -> Option<f64> {
    let all: Vec<f64> = starts.iter().filter_map(of).collect();
    (!all.is_empty()).then(|| median(&all))
}

fn print_table(starts: &[Start]) {
    println!("round trip of 64 B in us and thousand round trips a second, by messages under way;");
    println!("32 kB with 8 under way in MB/s each way");
    print!("{:20}", "");
    for window in ["1 under way", "8 under way", "32 under way"] {
        print!(" |{window:^29}");
    }
    println!(" |  32 kB");
    print!("{:20}", "");
    for _ in 0..3 {
        print!(" |{:>7}{:>7}{:>8}{:>7}", "p50", "p99", "p99.9", "K/s");
    }
    println!(" |   MB/s");
    for (path, _) in starts.first().map_or(&[][..], |start| &start.paths) {
        print!("{:20}", path.name());
        let of = |cell: usize, value: fn(&Found) -> f64| {
            middle(starts, |start| start.path(*path).map(|cells| value(&cells[cell]))).unwrap_or(0.0)
        };
        for cell in 0..3 {
            let (p50, p99, p999) =
                (of(cell, |found| found.p50), of(cell, |found| found.p99), of(cell, |found| found.p999));
            let rate = of(cell, |found| found.per_second) / 1e3;
            print!(" |{p50:>7.1}{p99:>7.1}{p999:>8.1}{rate:>7.1}");
        }
        println!(" |{:>7.0}", of(3, |found| found.megabytes_per_second));
    }
}

fn print_floors(starts: &[Start]) {
    println!("\nround trip of 64 B in us, one at a time, with less and less of Machnet");
    println!("{:58} {:>7} {:>7} {:>8} {:>8}", "", "p50", "p99", "p99.9", "of bare");
    let all = Floor::all();
    let measured = |floor: &&Floor| starts.iter().any(|start| start.floor_p50(**floor).is_some());
    for floor in all.iter().filter(measured) {
        let of = |value: fn(&Trips) -> f64| {
            let found = |start: &Start| {
                start.floors.iter().find(|(one, _)| one == floor).map(|(_, trips)| value(trips))
            };
            middle(starts, found).unwrap_or(0.0)
        };
        let over = |start: &Start| {
            let Floor::Pair(path, _) = *floor else { return None };
            Some(start.floor_p50(*floor)? / start.floor_p50(Floor::Pair(path, Level::Frames))?)
        };
        let over = middle(starts, over).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let (p50, p99, p999) = (of(|trips| trips.p50), of(|trips| trips.p99), of(|trips| trips.p999));
        println!("{:58} {p50:>7.2} {p99:>7.2} {p999:>8.2} {over:>8}", floor.name());
    }
    println!(
        "\nround trip with client, two sidecars and server, over bare rings plus bare frames (memif: over bare rings),"
    );
    println!(
        "and over kernel TCP that blocks; round trips with 32 under way over kernel TCP's, the faster of its two ways"
    );
    let blocking = |start: &Start| start.path(Path::Kernel(Kernel::TCP_BLOCKING)).map(|cells| cells[0].p50);
    for path in Path::DRIVERS {
        let bare = middle(starts, |start| start.over_bare(path));
        let tcp = middle(starts, |start| Some(start.path(path)?[0].p50 / blocking(start)?));
        let rate = middle(starts, |start| start.over_tcp(path));
        let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        println!("{:20} {:>8} {:>8} {:>8}", path.name(), text(bare), text(tcp), text(rate));
    }
    let rate = |kernel: Kernel| {
        middle(starts, |start| start.path(Path::Kernel(kernel)).map(|cells| cells[2].per_second))
            .unwrap_or(0.0)
    };
    let fastest = Kernel::TCP.into_iter().max_by(|&a, &b| rate(a).total_cmp(&rate(b)));
    if let Some(fastest) = fastest {
        println!("The faster one is mostly {}.", Path::Kernel(fastest).name());
    }
}

/// The paper's figure 5.
fn print_loads(stage: &Stage, paths: &[Path], starts: &[Start], further: usize) -> io::Result<()> {
    println!(
        "\n== one message at a time beside a load of 64 B messages (the paper's figure 5), medians of {further} starts\n"
    );
    println!(
        "per cent of the path's round trips with 32 under way: p50 / p99 / p99.9 of the one in us (load that came through)"
    );
    print!("{:16}", "");
    for load in LOADS {
        print!(" {:>32}", format!("{load} %"));
    }
    println!();
    for &path in paths.iter().filter(|path| path.sleeps()) {
        let most = middle(starts, |start| start.path(path).map(|cells| cells[2].per_second)).unwrap_or(0.0);
        print!("{:16}", path.name());
        for load in LOADS {
            let rate = most * f64::from(load) / 100.0;
            let found = (0..further).map(|_| probe(stage, path, rate)).collect::<io::Result<Vec<_>>>()?;
            let of = |value: fn(&Probe) -> f64| median(&found.iter().map(value).collect::<Vec<_>>());
            let cell = format!(
                "{:.0} / {:.0} / {:.0} ({:.0} K)",
                of(|probe| probe.one.p50),
                of(|probe| probe.one.p99),
                of(|probe| probe.one.p999),
                of(|probe| probe.load.per_second) / 1e3
            );
            print!(" {cell:>32}");
        }
        println!();
    }
    Ok(())
}

struct Probe {
    one: Found,
    load: Found,
}

fn probe(stage: &Stage, path: Path, rate: f64) -> io::Result<Probe> {
    let open = stage.open(path).map_err(io::Error::other)?;
    let load = open.client(&["--rate", &format!("{rate:.0}"), "--seconds", "0.3", "--warm-up", "0.1"])?;
    let one = open.client(&["--seconds", "0.2", "--warm-up", "0.12"])?.found()?;
    Ok(Probe { one, load: load.found()? })
}

fn print_figures(starts: &[Start]) {
    let figures = [
        ("memif-p50-over-bare", middle(starts, |start| start.over_bare(Path::Memif))),
        ("xdp-p50-over-bare", middle(starts, |start| start.over_bare(Path::Xdp))),
        ("packet-p50-over-bare", middle(starts, |start| start.over_bare(Path::Packet))),
        ("xdp-window32-over-tcp", middle(starts, |start| start.over_tcp(Path::Xdp))),
        ("packet-window32-over-tcp", middle(starts, |start| start.over_tcp(Path::Packet))),
    ];
    for (name, value) in figures {
        if let Some(value) = value {
            figure(name, value);
        }
    }
    let frames = [Path::Packet, Path::Xdp, Path::Memif];
    let worst = frames.into_iter().filter_map(|path| middle(starts, |start| start.engine_over_raw(path)));
    if let Some(worst) = worst.reduce(f64::max) {
        figure("engine-echo-over-raw", worst);
    }
}
