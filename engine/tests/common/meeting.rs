//! Sidecars of several engines that meet: what they tell of themselves, and messages between all their engines.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use super::common::{PATIENCE, TestSidecar, counter, eventually, pattern, status};
use machnet_client::{Attachment, Flow, Listener};
use machnet_engine::status::FlowStatus;

pub fn flows(sidecar: &TestSidecar) -> Vec<FlowStatus> {
    let status = status(sidecar);
    status.engines.into_iter().flat_map(|e| e.channels).flat_map(|channel| channel.flows).collect()
}

/// One application on each engine.
pub fn one_on_each(sidecar: &TestSidecar, engines: u32) -> Vec<Attachment> {
    let attach = |engine| sidecar.options().engine(engine).attach().unwrap();
    (0..engines).map(attach).collect()
}

/// Where two messages differ first, and in how many places.
fn first_difference(got: &[u8], message: &[u8]) -> Option<(usize, usize, usize)> {
    if got.len() != message.len() {
        return Some((got.len(), message.len(), 0));
    }
    let different = got.iter().zip(message).enumerate().filter(|(_, (a, b))| a != b);
    let places: Vec<usize> = different.map(|(at, _)| at).collect();
    Some((*places.first()?, *places.last()?, places.len()))
}

pub fn echo(one: &Flow, other: &Flow, number: usize, len: usize) {
    let message = pattern(number, len);
    one.send_timeout(&message, PATIENCE).unwrap();
    let got = other.recv_timeout(PATIENCE).unwrap();
    assert_eq!(first_difference(&got, &message), None, "message {number} of {len} bytes arrives intact");
    other.send_timeout(&got, PATIENCE).unwrap();
    drop(got);
    assert!(*one.recv_timeout(PATIENCE).unwrap() == *message, "message {number} comes back intact");
}

/// Every engine of one sidecar connects to every engine of another; answers the flows with both of their ends.
pub fn connect_all(
    left: &TestSidecar,
    right: &TestSidecar,
    clients: &[Attachment],
    servers: &[Attachment],
) -> (Vec<Listener>, Vec<(Flow, Flow)>) {
    let listen = |(index, server): (usize, &Attachment)| {
        server.listen(right.at(100 + u16::try_from(index).unwrap()), 16).unwrap()
    };
    let listeners: Vec<Listener> = servers.iter().enumerate().map(listen).collect();
    let mut flows = Vec::new();
    for client in clients {
        for listener in &listeners {
            let flow = client.connect(right.at(listener.local_addr().port())).unwrap();
            assert_eq!(flow.local_addr().ip(), left.ip());
            flow.send(b"hello").unwrap();
            let accepted = listener.accept_timeout(PATIENCE).unwrap();
            assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"hello");
            flows.push((flow, accepted));
        }
    }
    (listeners, flows)
}

/// Messages both ways between all engines; after a while, everything lands where it should.
pub fn all_to_all(left: &TestSidecar, left_engines: u32, right: &TestSidecar, right_engines: u32) {
    let clients = one_on_each(left, left_engines);
    let servers = one_on_each(right, right_engines);
    let (_listeners, pairs) = connect_all(left, right, &clients, &servers);
    for (number, (flow, accepted)) in pairs.iter().enumerate() {
        for len in [1, 100, 3_000, 200_000] {
            echo(flow, accepted, number, len);
        }
    }
    let handed_over = || counter(left, "handed_over_out") + counter(right, "handed_over_out");
    let exchange = || {
        for (number, (flow, accepted)) in pairs.iter().enumerate() {
            echo(flow, accepted, number, 64);
        }
    };
    // A flow is direct when several rounds hand nothing over.
    eventually("every flow is direct", || {
        let before = handed_over();
        (0..5).for_each(|_| exchange());
        handed_over() == before
    });
    if right_engines > 1 {
        assert!(flows(left).iter().all(|flow| flow.direct), "{:?}", flows(left));
    }
    if left_engines > 1 {
        assert!(flows(right).iter().all(|flow| flow.direct), "{:?}", flows(right));
    }
    let to = |flow: &FlowStatus| u32::from(flow.peer_engine.unwrap());
    assert!(flows(left).iter().all(|flow| to(flow) < right_engines));
    assert_eq!(counter(left, "handed_over_dropped") + counter(right, "handed_over_dropped"), 0);
    let out = counter(left, "handed_over_out");
    assert_eq!(counter(left, "handed_over_in"), out, "what one hands over another takes");
    let of_flows = flows(left).iter().map(|flow| flow.taken_over).sum::<u64>();
    assert!(counter(left, "taken_over") >= of_flows, "first words are of no flow yet");
    assert_eq!(counter(left, "path_source_port_unavailable"), 0);
    // What was learned serves later flows from their first packet.
    if left_engines > 1 || right_engines > 1 {
        let known: usize = status(left).engines.iter().map(|engine| engine.learned.len()).sum();
        assert_eq!(known, left_engines as usize, "each engine knows the other host");
        let before = handed_over();
        for client in &clients {
            let later = client.connect(right.at(100)).unwrap();
            let accepted = _listeners[0].accept_timeout(PATIENCE).unwrap();
            echo(&later, &accepted, 1, 64);
        }
        assert_eq!(handed_over(), before, "later flows are direct at once");
    }
}
