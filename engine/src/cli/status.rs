//! `machnet status`: who is attached to the sidecar, and to whom they talk.

use super::peer::AttachArguments;
use super::text::{self, Align, Table};
use super::{Exit, Failure, Outcome, say};
use clap::Args;
use machnet_client::control::{Reply, Request};
use machnet_client::socket::Seqpacket;
use machnet_client::{Error, socket_candidates};
use machnet_engine::status::{EngineStatus, Status};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Most records of an answer: a bound against a sidecar that never ends it.
const MAX_PIECES: usize = 4096;

/// Show what the sidecar does: applications, connections, counters.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    attach: AttachArguments,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Also print the statistics of each connection
    #[arg(short, long)]
    flows: bool,
    /// Also print the counters that are not zero
    #[arg(short, long)]
    counters: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let candidates = match &arguments.attach.socket {
        Some(socket) => vec![socket.clone()],
        None => socket_candidates(),
    };
    let json = ask_first(&candidates)?;
    if arguments.json {
        say(json);
        return Ok(());
    }
    let status: Status = serde_json::from_str(&json).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("the sidecar's answer is not understood (another release?): {error}"),
        )
    })?;
    say(render(&status, arguments.flows, arguments.counters).trim_end());
    Ok(())
}

/// The status of the first sidecar that answers; else what was wrong with the first candidate.
fn ask_first(candidates: &[PathBuf]) -> Outcome<String> {
    let mut first_failure = None;
    for socket in candidates {
        match ask(socket) {
            Ok(json) => return Ok(json),
            Err(failure) => first_failure = first_failure.or(Some(failure)),
        }
    }
    Err(first_failure.unwrap_or_else(|| Failure::new(Exit::NoSidecar, "no socket to try")))
}

fn ask(socket: &Path) -> Outcome<String> {
    let failed = |error: io::Error| {
        let socket = socket.to_owned();
        Failure::from(match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::NoSidecar { socket },
            ErrorKind::PermissionDenied => Error::SocketPermission { socket },
            _ => Error::Io(error),
        })
    };
    let connection = Seqpacket::connect(socket).map_err(failed)?;
    connection.send(&Request::Status.encode(), &[]).map_err(failed)?;
    let mut json = String::new();
    for _ in 0..MAX_PIECES {
        let record = connection.receive().map_err(failed)?;
        if record.bytes.is_empty() {
            return Err(Failure::from(Error::EngineLost));
        }
        match Reply::decode(&record.bytes) {
            Ok(Reply::StatusText { last, text }) => {
                json.push_str(&text);
                if last {
                    return Ok(json);
                }
            }
            Ok(Reply::Failed { text, .. }) => return Err(Failure::new(Exit::Failed, text)),
            Ok(_) | Err(_) => break,
        }
    }
    Err(Failure::new(Exit::Failed, "the sidecar's answer is not understood (another release?)"))
}

fn render(status: &Status, with_flows: bool, with_counters: bool) -> String {
    let mut out = format!(
        "machnet {}, process {}, up {}\n  socket {}, address {}, driver {}\n",
        status.version,
        status.pid,
        uptime(status.uptime_seconds),
        status.socket,
        status.address,
        status.driver
    );
    for engine in &status.engines {
        out.push_str(&render_engine(engine));
        if with_flows && engine.channels.iter().any(|channel| !channel.flows.is_empty()) {
            out.push('\n');
            out.push_str(&statistics(engine).render());
        }
        if with_flows && !engine.learned.is_empty() {
            out.push('\n');
            out.push_str(&learned(engine).render());
        }
        if with_counters {
            let mut table = Table::new(&[("counter", Align::Left), ("count", Align::Right)]);
            for (name, count) in engine.counters.iter().filter(|(_, count)| **count > 0) {
                table.row([name.clone(), count.to_string()]);
            }
            out.push('\n');
            out.push_str(&table.render());
        }
    }
    out
}

fn render_engine(engine: &EngineStatus) -> String {
    let flows: usize = engine.channels.iter().map(|channel| channel.flows.len()).sum();
    let mut out = format!(
        "\nengine {}: idle policy {}{}{}, applications {}, connections {flows}\n",
        engine.id,
        engine.idle,
        engine.cpu.map_or_else(String::new, |cpu| format!(", on processor {cpu}")),
        match engine.path.as_str() {
            // An older sidecar does not say.
            "" | "up" => String::new(),
            path => format!(", network interface {path}"),
        },
        engine.channels.len()
    );
    out.push_str(&hand_overs(engine));
    if engine.channels.is_empty() {
        return out;
    }
    let mut applications = Table::new(&[
        ("application", Align::Left),
        ("process", Align::Right),
        ("user", Align::Right),
        ("connections", Align::Right),
        ("listens on", Align::Left),
    ]);
    for channel in &engine.channels {
        applications.row([
            channel.name.clone(),
            channel.pid.to_string(),
            channel.uid.to_string(),
            channel.flows.len().to_string(),
            channel.listeners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ]);
    }
    out.push_str(&applications.render());
    if flows > 0 {
        out.push('\n');
        out.push_str(&connections(engine).render());
    }
    out
}

/// What landed at another engine than it belongs to, if anything did.
fn hand_overs(engine: &EngineStatus) -> String {
    let count = |name: &str| engine.counters.get(name).copied().unwrap_or(0);
    let (out, taken, dropped) =
        (count("handed_over_out"), count("handed_over_in"), count("handed_over_dropped"));
    if out + taken + dropped == 0 {
        return String::new();
    }
    let mut text = format!("datagrams handed over: {out} to other engines, {taken} from them");
    if dropped > 0 {
        text.push_str(&format!(", {dropped} dropped because an engine was behind"));
    }
    text.push('\n');
    text
}

fn connections(engine: &EngineStatus) -> Table {
    let mut table = Table::new(&[
        ("application", Align::Left),
        ("peer", Align::Left),
        ("local", Align::Left),
        ("path", Align::Left),
        ("state", Align::Left),
        ("round trip", Align::Right),
        ("sent", Align::Right),
        ("received", Align::Right),
    ]);
    for channel in &engine.channels {
        for flow in &channel.flows {
            table.row([
                channel.name.clone(),
                flow.peer.to_string(),
                flow.local.to_string(),
                match flow.peer_engine {
                    // Between engines 0 there is usually no other.
                    Some(peer) if u32::from(peer) != engine.id || (flow.kind == "remote" && peer > 0) => {
                        format!("{} (engine {peer})", flow.kind)
                    }
                    _ => flow.kind.clone(),
                },
                flow.state.clone(),
                match flow.srtt_ns {
                    0 => "-".to_owned(),
                    nanos => text::span(nanos),
                },
                flow.messages_sent.to_string(),
                flow.messages_delivered.to_string(),
            ]);
        }
    }
    table
}

/// Numbers of each connection. A path that there is not, or that nothing is known of, is a dash. Ports with a question mark
/// are those of which the peer has not said that they reach the right engine.
fn statistics(engine: &EngineStatus) -> Table {
    let columns = [
        "acknowledged",
        "bytes sent",
        "bytes received",
        "least round trip",
        "window",
        "in flight",
        "datagram",
        "repeats",
        "UDP ports",
        "handed over",
    ];
    let mut titles = vec![("application", Align::Left), ("peer", Align::Left)];
    titles.extend(columns.map(|title| (title, Align::Right)));
    let mut table = Table::new(&titles);
    for channel in &engine.channels {
        for flow in &channel.flows {
            let path = |value: u64| if flow.kind == "remote" { value.to_string() } else { "-".to_owned() };
            table.row([
                channel.name.clone(),
                flow.peer.clone(),
                flow.messages_acknowledged.to_string(),
                flow.bytes_sent.to_string(),
                flow.bytes_delivered.to_string(),
                match flow.min_rtt_ns {
                    0 => "-".to_owned(),
                    nanos => text::span(nanos),
                },
                path(flow.congestion_window),
                path(flow.bytes_in_flight),
                path(u64::from(flow.datagram_size)),
                path(flow.retransmissions),
                match flow.from_port {
                    0 => "-".to_owned(),
                    from if flow.direct => format!("{from} to {}", flow.to_port),
                    from => format!("{from} to {}?", flow.to_port),
                },
                path(flow.taken_over),
            ]);
        }
    }
    table
}

/// Which UDP ports reach which engine of other hosts, and on which theirs reach this one.
fn learned(engine: &EngineStatus) -> Table {
    let mut table = Table::new(&[
        ("host", Align::Left),
        ("engines", Align::Right),
        ("reached by UDP ports", Align::Left),
        ("reaches us by", Align::Left),
    ]);
    for host in &engine.learned {
        let pairs = host.pairs.iter();
        let pairs =
            pairs.map(|pair| format!("engine {}: {} to {}", pair.engine, pair.from_port, pair.to_port));
        let heard = host.heard.map_or_else(|| "-".to_owned(), |(from, to)| format!("{from} to {to}"));
        table.row([host.host.clone(), host.engines.to_string(), pairs.collect::<Vec<_>>().join(", "), heard]);
    }
    table
}

fn uptime(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_flow_without_a_path_have_no_path() {
        use machnet_engine::status::{ChannelStatus, FlowStatus};
        let flow = |kind: &str| FlowStatus {
            kind: kind.to_owned(),
            bytes_sent: 77,
            congestion_window: 14_720,
            ..FlowStatus::default()
        };
        let channel =
            ChannelStatus { flows: vec![flow("remote"), flow("local")], ..ChannelStatus::default() };
        let status = Status {
            engines: vec![EngineStatus { channels: vec![channel], ..EngineStatus::default() }],
            ..Status::default()
        };
        let text = render(&status, true, false);
        assert_eq!(text.matches("14720").count(), 1, "{text}");
        assert_eq!(text.matches("77").count(), 2, "{text}");
        assert!(!render(&status, false, false).contains("14720"));
    }

    #[test]
    fn an_interface_that_is_not_up_is_named() {
        let of =
            |path: &str| render_engine(&EngineStatus { path: path.to_owned(), ..EngineStatus::default() });
        assert!(of("gone").contains("network interface gone"), "{}", of("gone"));
        assert!(!of("up").contains("interface") && !of("").contains("interface"));
    }

    #[test]
    fn an_uptime_has_two_units() {
        assert_eq!(uptime(59), "59 s");
        assert_eq!(uptime(61), "1 min 1 s");
        assert_eq!(uptime(7_325), "2 h 2 min");
        assert_eq!(uptime(200_000), "2 d 7 h");
    }
}
