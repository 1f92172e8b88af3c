//! What an idle sidecar costs (figure 16): processor time of `machnet up` with default settings, while a few applications are
//! attached and say nothing.

use machnet_benches::stats::{median, to_f64};
use machnet_benches::{command, cpu, figure, roles};
use machnet_client::{AttachOptions, Attachment};
use std::io;
use std::time::Duration;

const STARTS: u16 = 5;
const SETTLE: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_secs(3);
const FIRST_PORT: u16 = 31_910;

fn main() -> io::Result<()> {
    if let Some((_, arguments)) = roles::role() {
        return Err(command::become_machnet(&arguments));
    }
    println!("an idle sidecar with default settings, watched for {} s at each start", WATCHED.as_secs());
    println!("{:<58} {:>12} {:>12}", "attached", "share of", "CPU time");
    println!("{:<58} {:>12} {:>12}", "", "a core, %", "a second, us");
    watch("nobody", |_| Ok(()))?;
    let share = watch("four applications: a listener, a flow between two, one new", attach_four)?;
    figure("idle-cpu-pct", share);
    Ok(())
}

fn attach_four(socket: &str) -> machnet_client::Result<Vec<Box<dyn std::any::Any>>> {
    let attach = |name: &str| -> machnet_client::Result<Attachment> {
        AttachOptions::new().socket(socket).name(name).attach()
    };
    let (listening, serving, asking, new) =
        (attach("listener")?, attach("server")?, attach("client")?, attach("new")?);
    let quiet = listening.listen("0.0.0.0:7001", 0)?;
    let listener = serving.listen("0.0.0.0:7000", 0)?;
    let there = asking.connect("127.0.0.1:7000")?;
    let here = listener.accept()?;
    there.send(b"one message, so that the flow was used")?;
    here.recv()?;
    Ok(vec![Box::new((quiet, listener, there, here)), Box::new((listening, serving, asking, new))])
}

/// The median share of a core, in per cent, of several sidecars.
fn watch<T>(name: &str, attach: impl Fn(&str) -> machnet_client::Result<T>) -> io::Result<f64> {
    let mut shares = Vec::new();
    for start in 0..STARTS {
        let sidecar = command::Up::start("127.0.0.1", FIRST_PORT + start, &[])?;
        let attached = attach(sidecar.socket()).map_err(io::Error::other)?;
        std::thread::sleep(SETTLE);
        let before = cpu::time_of(sidecar.pid())?;
        let (elapsed, ()) = cpu::timed(|| std::thread::sleep(WATCHED));
        let used = cpu::time_of(sidecar.pid())?.saturating_sub(before);
        shares.push(100.0 * used.as_secs_f64() / elapsed.as_secs_f64());
        drop(attached);
    }
    let share = median(&shares);
    println!("{name:<58} {share:>12.4} {:>12.1}", share * to_f64(10_000));
    Ok(share)
}
