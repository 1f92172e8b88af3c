//! `machnet-bench-iceoryx2 ROUNDS`: 64 bytes there and back between two processes over publish and subscribe, both sides
//! polling on a processor of their own. Prints the mean time of one way in nanoseconds.

use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::error::Error;
use std::process::Command;

type Element = [u64; 8];
type Port<P> = Result<P, Box<dyn Error>>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    set_log_level(LogLevel::Error);
    match &arguments[..] {
        [rounds] => ask(rounds.parse()?),
        [rounds, session] => answer(rounds.parse()?, session),
        _ => Err("usage: machnet-bench-iceoryx2 ROUNDS".into()),
    }
}

fn ask(rounds: u64) -> Result<(), Box<dyn Error>> {
    let session = std::process::id().to_string();
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let publisher = publisher(&node, &format!("machnet-bench/{session}/there"))?;
    let subscriber = subscriber(&node, &format!("machnet-bench/{session}/back"))?;
    let mut child = Command::new(std::env::current_exe()?).args([&rounds.to_string(), &session]).spawn()?;
    pin(0)?;
    // The other side says once that it is connected.
    receive(&subscriber)?;
    let warm_up = rounds / 10;
    let mut start = std::time::Instant::now();
    for round in 0..rounds + warm_up {
        if round == warm_up {
            start = std::time::Instant::now();
        }
        send(&publisher, [round; 8])?;
        receive(&subscriber)?;
    }
    println!("{}", start.elapsed().as_secs_f64() * 1e9 / rounds as f64 / 2.0);
    child.wait()?;
    Ok(())
}

fn answer(rounds: u64, session: &str) -> Result<(), Box<dyn Error>> {
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let subscriber = subscriber(&node, &format!("machnet-bench/{session}/there"))?;
    let publisher = publisher(&node, &format!("machnet-bench/{session}/back"))?;
    pin(1)?;
    send(&publisher, [0; 8])?;
    for _ in 0..rounds + rounds / 10 {
        let element = receive(&subscriber)?;
        send(&publisher, element)?;
    }
    Ok(())
}

fn publisher(node: &Node<ipc::Service>, name: &str) -> Port<Publisher<ipc::Service, Element, ()>> {
    let service = node.service_builder(&name.try_into()?).publish_subscribe::<Element>().open_or_create()?;
    Ok(service.publisher_builder().create()?)
}

fn subscriber(node: &Node<ipc::Service>, name: &str) -> Port<Subscriber<ipc::Service, Element, ()>> {
    let service = node.service_builder(&name.try_into()?).publish_subscribe::<Element>().open_or_create()?;
    Ok(service.subscriber_builder().create()?)
}

fn send(publisher: &Publisher<ipc::Service, Element, ()>, element: Element) -> Result<(), Box<dyn Error>> {
    publisher.loan_uninit()?.write_payload(element).send()?;
    Ok(())
}

fn receive(subscriber: &Subscriber<ipc::Service, Element, ()>) -> Result<Element, Box<dyn Error>> {
    loop {
        if let Some(sample) = subscriber.receive()? {
            return Ok(*sample);
        }
        std::hint::spin_loop();
    }
}

/// Keeps the calling thread on one of the processors that the process may use, as the other rows do.
fn pin(index: usize) -> Result<(), Box<dyn Error>> {
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let mut set = CpuSet::new();
    set.set(cpus[index % cpus.len()]);
    Ok(sched_setaffinity(None, &set)?)
}
