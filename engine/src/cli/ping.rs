//! `machnet ping`: is there a sidecar, does it answer, and how fast?

use super::bench::content::Content;
use super::bench::summary::{Summary, new_histogram};
use super::peer::{AttachArguments, Wait, resolve};
use super::sys::Signals;
use super::{Exit, Failure, Outcome, clock, say, text};
use clap::Args;
use hdrhistogram::Histogram;
use machnet_client::{Attachment, Error, Flow};
use machnet_engine::config::DEFAULT_PING_PORT;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  machnet ping 10.0.0.2               until Ctrl-C, once a second
  machnet ping 10.0.0.2 -c 1000 -i 0  a thousand in a row, then the percentiles
  machnet ping 10.0.0.2:9000          an echo program of your own on port 9000

Both hosts need a running sidecar (`machnet up`). Exit code 3: no sidecar on this host;
4: the other one does not answer.";

/// No answer is awaited in slices longer than this, so that Ctrl-C is obeyed.
const SLICE: Duration = Duration::from_millis(100);

/// Ask a sidecar for answers and time them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The other host, or HOST:PORT for a program that returns every message
    #[arg(value_name = "HOST[:PORT]")]
    peer: String,
    /// Stop after so many messages [default: go on until Ctrl-C]
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds between messages; 0: each as soon as the one before is answered
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Bytes of a message
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = super::bench::message_size)]
    size: usize,
    /// Stop after so many seconds, whatever happened
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    deadline: Option<Duration>,
    /// Wait so many seconds for an answer, then count it as lost
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    timeout: Duration,
    /// Print only the summary
    #[arg(short, long)]
    quiet: bool,
    /// Print only the summary, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    attach: AttachArguments,
    /// How to wait for answers
    #[arg(long, value_enum, default_value_t)]
    wait: Wait,
}

/// A span given in seconds, such as `0.2`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds, such as 0.2".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|span| *span <= Duration::from_secs(1_000_000))
        .ok_or_else(|| "must be from 0 to 1000000 seconds".to_owned())
}

struct Ping<'a> {
    arguments: &'a Arguments,
    flow: Flow,
    content: Content,
    interrupts: Receiver<()>,
    ends_at: Option<Instant>,
    started: Instant,
    latency: Histogram<u64>,
    sent: u64,
    answered: u64,
    late: u64,
    damaged: u64,
}

enum Answer {
    Here(u64),
    Damaged,
    Lost,
    Interrupted,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let peer = resolve(&arguments.peer, DEFAULT_PING_PORT)?;
    let interrupts = watch_signals()?;
    let options = arguments.attach.options("machnet ping").wait_policy(arguments.wait.policy());
    let attachment = options.attach()?;
    let flow = attachment
        .connect_timeout(peer, None, None)
        .map_err(|error| explain(error, peer, &attachment, arguments))?;
    if !arguments.quiet && !arguments.json {
        let from = attachment.info().local.ip();
        say(format_args!("ping {peer} from {from}: {} bytes a message", arguments.size));
    }
    let started = clock::now();
    let mut ping = Ping {
        arguments,
        flow,
        content: Content::new(arguments.size),
        interrupts,
        ends_at: arguments.deadline.map(|deadline| started + deadline),
        started,
        latency: new_histogram(),
        sent: 0,
        answered: 0,
        late: 0,
        damaged: 0,
    };
    let outcome = ping.go();
    ping.summarise(peer);
    outcome?;
    let complete =
        arguments.count.is_none() || arguments.deadline.is_none() || Some(ping.answered) == arguments.count;
    if ping.answered == 0 || !complete {
        return Err(Failure::new(
            Exit::Peer,
            format!("{} of {} messages were not answered", ping.sent - ping.answered, ping.sent),
        ));
    }
    Ok(())
}

fn watch_signals() -> Outcome<Receiver<()>> {
    let mut signals =
        Signals::install().map_err(|error| anyhow::anyhow!("cannot watch for signals: {error}"))?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if sender.send(()).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

impl Ping<'_> {
    fn go(&mut self) -> Outcome {
        let mut next = self.started;
        while self.arguments.count.is_none_or(|count| self.sent < count) && !self.is_over() {
            let number = self.sent + 1;
            let sent_at = clock::now();
            self.flow.send_timeout(self.content.stamp(number), self.arguments.timeout)?;
            self.sent = number;
            match self.await_answer(number, sent_at)? {
                Answer::Here(nanos) => self.on_answer(number, nanos),
                Answer::Damaged => {
                    self.damaged += 1;
                    self.line(format_args!("message {number}: the answer is not what was sent"));
                }
                Answer::Lost => self.line(format_args!(
                    "message {number}: no answer for {}",
                    text::span(text::nanos(self.arguments.timeout))
                )),
                Answer::Interrupted => break,
            }
            next += self.arguments.interval;
            if self.arguments.count == Some(self.sent) || self.pause_until(next) {
                break;
            }
            next = next.max(clock::now());
        }
        Ok(())
    }

    fn on_answer(&mut self, number: u64, nanos: u64) {
        self.answered += 1;
        self.latency.saturating_record(nanos);
        self.line(format_args!(
            "{} bytes from {}: message {number}, {}",
            self.arguments.size,
            self.flow.peer_addr().ip(),
            text::span(nanos)
        ));
    }

    fn await_answer(&mut self, number: u64, sent_at: Instant) -> Outcome<Answer> {
        let gives_up_at = sent_at + self.arguments.timeout;
        loop {
            let now = clock::now();
            let limit = self.ends_at.map_or(gives_up_at, |end| end.min(gives_up_at));
            let left = limit.saturating_duration_since(now);
            if left.is_zero() {
                return Ok(Answer::Lost);
            }
            match self.flow.recv_timeout(left.min(SLICE)) {
                Ok(message) => {
                    let nanos = text::nanos(clock::now().duration_since(sent_at));
                    match self.content.check(&message) {
                        Some(answered) if answered == self.content.visible(number) => {
                            return Ok(Answer::Here(nanos));
                        }
                        Some(_) => self.late += 1,
                        None => return Ok(Answer::Damaged),
                    }
                }
                Err(Error::TimedOut) if self.interrupts.try_recv().is_ok() => return Ok(Answer::Interrupted),
                Err(Error::TimedOut) => {}
                Err(Error::Closed | Error::Reset { .. }) => {
                    let peer = self.flow.peer_addr();
                    return Err(Failure::new(Exit::Peer, format!("{peer} ended the connection")));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the next turn. `true`: the user or the deadline wants an end.
    fn pause_until(&self, next: Instant) -> bool {
        let turn = self.ends_at.map_or(next, |end| end.min(next));
        let interrupted = self.interrupts.recv_timeout(turn.saturating_duration_since(clock::now()));
        interrupted != Err(RecvTimeoutError::Timeout) || self.is_over()
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|end| clock::now() >= end)
    }

    fn line(&self, line: std::fmt::Arguments<'_>) {
        if !self.arguments.quiet && !self.arguments.json {
            say(line);
        }
    }

    fn summarise(&self, peer: SocketAddr) {
        let summary = Summary::of(&self.latency);
        let lost = self.sent - self.answered;
        if self.arguments.json {
            say(serde_json::json!({
                "peer": peer.to_string(),
                "size_bytes": self.arguments.size,
                "sent": self.sent,
                "answered": self.answered,
                "lost": lost,
                "late": self.late,
                "damaged": self.damaged,
                "round_trip_us": summary,
            }));
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a percentage with one digit is shown")]
        let lost_percent = if self.sent == 0 { 0.0 } else { lost as f64 * 100.0 / self.sent as f64 };
        say(format_args!("--- {peer} ---"));
        say(format_args!(
            "{} sent, {} answered, {lost_percent:.1} % lost, in {}",
            self.sent,
            self.answered,
            text::span(text::nanos(clock::now().duration_since(self.started)))
        ));
        if self.answered > 0 {
            say(format_args!(
                "round trip min/p50/p99/max = {:.1}/{:.1}/{:.1}/{:.1} us",
                summary.min, summary.p50, summary.p99, summary.max
            ));
        }
    }
}

/// Adds to a failed connect what the operator can do about it.
fn explain(error: Error, peer: SocketAddr, attachment: &Attachment, arguments: &Arguments) -> Failure {
    let is_builtin = peer.port() == DEFAULT_PING_PORT;
    let more = match &error {
        Error::ConnectTimedOut { .. } => format!(
            "\n  sidecars talk over UDP port {}: is it open on both hosts, in both directions, and does `machnet up` run on {} \
             with the same port?",
            attachment.info().local.port(),
            peer.ip()
        ),
        Error::Refused { .. } if is_builtin => format!(
            "\n  the sidecar at {} answers, but not to pings: it was started with ping_port = 0 or another one; \
             try machnet ping {}:PORT",
            peer.ip(),
            arguments.peer.split(':').next().unwrap_or_default()
        ),
        Error::Refused { .. } => format!(
            "\n  the sidecar at {} answers, but no application listens on port {}",
            peer.ip(),
            peer.port()
        ),
        _ => String::new(),
    };
    let failure = Failure::from(error);
    Failure::new(failure.exit, failure.text + &more)
}
