//! Attacks on the control socket: garbage, disorder, floods, and ends at every step.

use crate::common::PATIENCE;
use crate::dice::Dice;
use crate::raw::{Raw, TINY, Welcomed, connect, hello};
use crate::sys;
use machnet_client::control::{ANY_ENGINE, DoorbellKind, FailureCode, MAX_RECORD, Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::socket::Seqpacket;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

pub type Attack = fn(&Path, &mut Dice);

pub const ALL: &[(&str, Attack)] = &[
    ("garbage", garbage),
    ("truncated", truncated),
    ("oversized", oversized),
    ("descriptors", descriptors),
    ("out of order", out_of_order),
    ("absurd geometry", absurd_geometry),
    ("absurd hello", absurd_hello),
    ("ends early", ends_early),
    ("listens", listens),
    ("status unread", status_unread),
    ("flow statistics", flow_stats),
];

/// Seldom ones: each takes some time.
pub const SELDOM: &[(&str, Attack)] =
    &[("connection flood", connection_flood), ("listener flood", listener_flood)];

/// The connection must be ended by the sidecar.
fn must_end(socket: &Seqpacket, what: &str) {
    for _ in 0..2000 {
        match socket.receive() {
            Ok(record) if record.bytes.is_empty() => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("STALL: {what}: not ended within {PATIENCE:?}")
            }
            Err(_) => return,
        }
    }
    panic!("{what}: the sidecar answers without end");
}

/// The next reply, if the connection goes on.
fn reply(socket: &Seqpacket) -> Option<Reply> {
    let record = socket.receive().ok()?;
    (!record.bytes.is_empty()).then(|| Reply::decode(&record.bytes).expect("replies can be decoded"))
}

fn garbage(path: &Path, dice: &mut Dice) {
    let socket = connect(path);
    let bytes: Vec<u8> = (0..1 + dice.below(2000)).map(|_| dice.word() as u8).collect();
    let _ = socket.send(&bytes, &[]);
    if Request::decode(&bytes).is_err() {
        must_end(&socket, "garbage");
    }
}

fn truncated(path: &Path, dice: &mut Dice) {
    let socket = connect(path);
    let mut bytes = match dice.below(3) {
        0 => hello(TINY, DoorbellKind::Pipe).encode(),
        1 => listen_request(dice).encode(),
        _ => Request::Unlisten { listener: 1 }.encode(),
    };
    if dice.chance(70) {
        bytes.truncate(1 + dice.below(bytes.len() as u64 - 1) as usize);
    } else {
        bytes.push(dice.next() as u8);
    }
    socket.send(&bytes, &[]).expect("a record goes");
    must_end(&socket, "a truncated record");
}

fn oversized(path: &Path, dice: &mut Dice) {
    let socket = connect(path);
    let length = dice.pick(&[MAX_RECORD + 1, MAX_RECORD * 2, MAX_RECORD]);
    let record = vec![dice.pick(&[1, 6, 0]); length];
    if sys::send_with_descriptors(socket.as_fd(), &record, &[]).is_ok() {
        must_end(&socket, "an oversized record");
    }
}

fn descriptors(path: &Path, dice: &mut Dice) {
    let socket = if dice.chance(50) { connect(path) } else { Raw::attach(path, TINY, dice).made.socket };
    let null = std::fs::File::open("/dev/null").expect("there is /dev/null");
    let count = dice.pick(&[1, 2, 6, 7, 30, 253]);
    let given: Vec<BorrowedFd<'_>> =
        (0..count).map(|_| if dice.chance(10) { socket.as_fd() } else { null.as_fd() }).collect();
    let bytes = dice.pick(&[&[6_u8][..], &[2], &[5], &[255]]);
    match sys::send_with_descriptors(socket.as_fd(), bytes, &given) {
        Ok(()) => must_end(&socket, "descriptors where none belong"),
        // The kernel refuses them for the sidecar, if it is new enough.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}"),
    }
}

fn listen_request(dice: &mut Dice) -> Request {
    let ip: IpAddr = match dice.below(4) {
        0 => Ipv4Addr::UNSPECIFIED.into(),
        1 => Ipv4Addr::from(dice.next_u32()).into(),
        2 => Ipv6Addr::from(u128::from(dice.next())).into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = SocketAddr::new(ip, dice.pick(&[0, 0, 1, 7, 65_535]));
    Request::Listen { request: dice.next_u32() | 1, local, backlog: dice.word() as u32 }
}

fn any_request(dice: &mut Dice) -> Request {
    match dice.below(8) {
        0 | 1 => hello(TINY, DoorbellKind::Socket),
        2 => Request::Mapped,
        3 => listen_request(dice),
        4 => Request::Unlisten { listener: dice.word() as u32 },
        5 => Request::Detach,
        6 => Request::FlowStats { request: dice.next_u32(), flow: dice.word() as u32 },
        _ => Request::Status,
    }
}

fn out_of_order(path: &Path, dice: &mut Dice) {
    let socket = match dice.below(3) {
        0 => connect(path),
        1 => Welcomed::new(path, TINY, DoorbellKind::Pipe).socket,
        _ => Raw::attach(path, TINY, dice).made.socket,
    };
    for _ in 0..1 + dice.below(6) {
        // It may be ended by now.
        if socket.send(&any_request(dice).encode(), &[]).is_err() {
            break;
        }
    }
    if dice.chance(50) {
        // A marker that ends it for sure, behind everything.
        let _ = socket.send(&[255], &[]);
        must_end(&socket, "requests out of order");
    }
}

fn absurd_geometry(path: &Path, dice: &mut Dice) {
    let mut size = || match dice.below(5) {
        0 => dice.pick(&[0, 1, 2, 15, 16, 17]),
        1 => dice.pick(&[1023, 1024, 4096, 65_535, 65_536, 65_537]),
        2 => dice.pick(&[u32::MAX, 1 << 31, u32::MAX - 1]),
        3 => 1 << dice.below(32),
        _ => dice.next_u32(),
    };
    let mut geometry = Geometry { send_slots: size(), receive_slots: size(), tx_buffers: size(), ..TINY };
    (geometry.rx_buffers, geometry.buffer_bytes) = (size(), size());
    (geometry.max_flows, geometry.flow_credit) = (size(), size());
    if dice.chance(50) {
        // One field alone, else hardly any is possible.
        let one = dice.below(7);
        let keep = |at: u64, field: &mut u32, usual: u32| {
            if at != one {
                *field = usual;
            }
        };
        keep(0, &mut geometry.send_slots, TINY.send_slots);
        keep(1, &mut geometry.receive_slots, TINY.receive_slots);
        keep(2, &mut geometry.tx_buffers, TINY.tx_buffers);
        keep(3, &mut geometry.rx_buffers, TINY.rx_buffers);
        keep(4, &mut geometry.buffer_bytes, TINY.buffer_bytes);
        keep(5, &mut geometry.max_flows, TINY.max_flows);
        keep(6, &mut geometry.flow_credit, TINY.flow_credit);
    }
    let socket = connect(path);
    socket.send(&hello(geometry, DoorbellKind::Pipe).encode(), &[]).expect("Hello goes");
    let answer = reply(&socket).expect("Hello is answered");
    match geometry.fault() {
        None => {
            assert!(matches!(answer, Reply::Welcome { .. }), "{geometry:?}: {answer:?}");
            socket.send(&Request::Mapped.encode(), &[]).expect("Mapped goes");
            assert_eq!(reply(&socket), Some(Reply::Attached), "{geometry:?}");
        }
        Some(_) => assert!(matches!(answer, Reply::Failed { .. }), "{geometry:?}: {answer:?}"),
    }
}

fn absurd_hello(path: &Path, dice: &mut Dice) {
    let socket = connect(path);
    let name = match dice.below(3) {
        0 => "\u{1b}[31m\u{202e}".repeat(100),
        1 => "x".repeat(60 * 1024),
        _ => String::new(),
    };
    let versions = dice.pick(&[(1, 1), (0, u32::MAX), (2, 1), (0, 0), (2, 9), (u32::MAX, u32::MAX)]);
    let engine = dice.pick(&[0, 0, 1, ANY_ENGINE, u32::MAX - 1]);
    let request = Request::Hello { versions, geometry: TINY, doorbell: DoorbellKind::Pipe, engine, name };
    socket.send(&request.encode(), &[]).expect("Hello goes");
    let answer = reply(&socket).expect("Hello is answered");
    assert!(matches!(answer, Reply::Welcome { .. } | Reply::Failed { .. }), "{answer:?}");
}

fn ends_early(path: &Path, dice: &mut Dice) {
    match dice.below(7) {
        0 => drop(connect(path)),
        1 => {
            let socket = connect(path);
            let _ = socket.send(&hello(TINY, DoorbellKind::Pipe).encode(), &[]);
        }
        2 => drop(Welcomed::new(path, TINY, DoorbellKind::Socket)),
        3 => {
            let made = Welcomed::new(path, TINY, DoorbellKind::Pipe);
            let _ = made.socket.send(&Request::Mapped.encode(), &[]);
        }
        4 => drop(Raw::attach(path, TINY, dice)),
        5 => {
            let raw = Raw::attach(path, TINY, dice);
            let _ = raw.made.socket.send(&listen_request(dice).encode(), &[]);
        }
        _ => {
            let raw = Raw::attach(path, TINY, dice);
            for _ in 0..dice.below(3) {
                let _ = raw.made.socket.send(&Request::Detach.encode(), &[]);
            }
        }
    }
}

fn listens(path: &Path, dice: &mut Dice) {
    let mut raw = Raw::attach(path, TINY, dice);
    for _ in 0..20 {
        if dice.chance(70) {
            let _ = raw.made.socket.send(&listen_request(dice).encode(), &[]);
        } else {
            // Somebody else's, perhaps.
            let listener = dice.below(1000) as u32;
            let _ = raw.made.socket.send(&Request::Unlisten { listener }.encode(), &[]);
        }
    }
    raw.settle();
}

/// Questions about flows that there are not, more than may wait: each is answered, and each answer says no by name.
fn flow_stats(path: &Path, dice: &mut Dice) {
    let raw = Raw::attach(path, TINY, dice);
    let asked = 1 + dice.below(200) as u32;
    for request in 0..asked {
        let flow = dice.word() as u32;
        raw.made.socket.send(&Request::FlowStats { request, flow }.encode(), &[]).expect("a question goes");
    }
    for _ in 0..asked {
        match reply(&raw.made.socket) {
            Some(Reply::Failed { code: FailureCode::NoFlow | FailureCode::Full, request, .. }) => {
                assert!(request < asked, "an answer to question {request} of {asked}");
            }
            other => panic!("a flow that is not there has no statistics: {other:?}"),
        }
    }
}

fn status_unread(path: &Path, dice: &mut Dice) {
    let socket = connect(path);
    socket.set_nonblocking(true).expect("its own socket");
    for _ in 0..1 + dice.below(30) {
        if socket.send(&Request::Status.encode(), &[]).is_err() {
            break;
        }
    }
}

/// Connections that say nothing: the oldest give way, and applications still attach.
fn connection_flood(path: &Path, dice: &mut Dice) {
    let flood: Vec<Seqpacket> = (0..200).map(|_| connect(path)).collect();
    let mut raw = Raw::attach(path, TINY, dice);
    assert!(raw.pair().is_some(), "an application attaches beside the flood");
    drop(flood);
}

fn listener_flood(path: &Path, dice: &mut Dice) {
    let raw = Raw::attach(path, TINY, dice);
    raw.made.socket.set_nonblocking(true).expect("its own socket");
    let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let mut refused = false;
    let mut drain = || {
        while let Ok(record) = raw.made.socket.receive() {
            assert!(!record.bytes.is_empty(), "the connection goes on");
            refused |= matches!(Reply::decode(&record.bytes), Ok(Reply::Failed { .. }));
        }
    };
    for request in 1..1500 {
        let record = Request::Listen { request, local, backlog: 1 }.encode();
        while raw.made.socket.send(&record, &[]).is_err() {
            drain();
            std::thread::yield_now();
        }
    }
    drain();
    // Read what is left; the limit stands somewhere in it.
    raw.made.socket.set_nonblocking(false).expect("its own socket");
    for _ in 0..1500 {
        if refused {
            break;
        }
        refused = matches!(reply(&raw.made.socket), Some(Reply::Failed { .. }));
    }
    assert!(refused, "a channel has at most so many listeners");
}
