//! What an attached application can do to its shared memory, each with what must come of it.

use crate::dice::Dice;
use crate::raw::{Event, Outcome, Pair, Raw};
use machnet_client::shm::layout::{
    ARMED_OFFSET, ConnectRequest, DONE_HEAD_OFFSET, INLINE_BYTES, MAX_EXTENTS, MESSAGE_HEAD_OFFSET,
    RING_OFFSET, RUNG_OFFSET, receive_done_kind, receive_kind, send_kind,
};
use machnet_client::shm::region::{Mapping, Write};
use machnet_client::shm::ring::{PeerFault, WritableMemory};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What must come of an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// The channel lives on.
    Nothing,
    /// The channel ends for this.
    Fault(PeerFault),
    /// One or the other.
    Either,
}

/// Places in other hosts, for connects that leave this one.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// A listener of another sidecar that takes everybody.
    pub greeter: SocketAddr,
    /// A listener of a neighbour on the attacked sidecar.
    pub neighbour: SocketAddr,
    /// An address where no sidecar is.
    pub nobody: IpAddr,
}

pub type Attack = fn(&mut Raw, &mut Dice, &Places) -> Expect;

/// These change nothing; others can follow on the same channel.
pub const HARMLESS: &[(&str, Attack)] = &[
    ("doorbell words", doorbell_words),
    ("absurd connects", absurd_connects),
    ("bells filled", bells_filled),
    ("buffers scribbled", buffers_scribbled),
    ("traffic of its own", own_traffic),
    ("connect and reset", connect_and_reset),
    ("rings never drained", rings_never_drained),
    ("remote flow", remote_flow),
];

/// These end the channel, or may.
pub const LAST: &[(&str, Attack)] = &[
    ("sequence", wrong_sequence),
    ("head", wrong_head),
    ("kind", wrong_kind),
    ("length", wrong_length),
    ("flow", wrong_flow),
    ("connecting flow", connecting_flow),
    ("buffer", wrong_buffer),
    ("buffer twice", buffer_twice),
    ("credit", credit_overrun),
    ("token", wrong_token),
    ("token twice", token_twice),
    ("released twice", released_twice),
    ("random words", random_words),
    ("mutated slots", mutated_slots),
    ("lapped ring", lapped_ring),
    ("flipped words", flipped_words),
    ("released unread", released_unread),
    ("remote flow broken", remote_flow_broken),
    ("bells closed", bells_closed),
    ("neighbour flooded", neighbour_flooded),
];

fn a_length(raw: &Raw, dice: &mut Dice) -> u32 {
    let g = raw.geometry();
    let bound = dice.pick(&[1, 111, 112, 113, g.buffer_bytes, g.buffer_bytes + 1, g.max_send()]);
    bound.min(g.max_send())
}

fn doorbell_words(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    for _ in 0..20 {
        raw.poke(dice.pick(&[ARMED_OFFSET, RUNG_OFFSET]), dice.word());
        raw.poke(dice.pick(&[0, 8, ARMED_OFFSET + 8, DONE_HEAD_OFFSET + 64]), dice.word());
        raw.nudge();
    }
    own_traffic(raw, dice, &PLACES_UNUSED)
}

/// For attacks that go nowhere.
const PLACES_UNUSED: Places = Places {
    greeter: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    neighbour: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    nobody: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
};

fn absurd_address(raw: &Raw, dice: &mut Dice, places: &Places) -> SocketAddr {
    // None of these leaves the host: the sidecar's socket is bound to a loopback address.
    let ip: IpAddr = match dice.below(9) {
        0 => Ipv4Addr::UNSPECIFIED.into(),
        1 => Ipv4Addr::BROADCAST.into(),
        2 => Ipv4Addr::new(224, 0, 0, 1).into(),
        3 => Ipv4Addr::new(240, 1, 2, 3).into(),
        4 => Ipv4Addr::new(192, 0, 2, dice.below(256) as u8).into(),
        5 => Ipv6Addr::LOCALHOST.into(),
        6 => Ipv6Addr::from(u128::from(dice.next()) << 64 | u128::from(dice.next())).into(),
        7 => raw.made.own.ip(),
        _ => places.nobody,
    };
    SocketAddr::new(ip, dice.pick(&[0, 1, 9, 32_767, 65_535]))
}

fn absurd_connects(raw: &mut Raw, dice: &mut Dice, places: &Places) -> Expect {
    for _ in 0..=dice.below(8) {
        let remote = absurd_address(raw, dice, places);
        let local = dice.chance(30).then(|| absurd_address(raw, dice, places).ip());
        let timeout_ms = dice.pick(&[1, 2, 50, 0, u32::MAX]);
        raw.ask_to_connect(&ConnectRequest { remote, local, timeout_ms });
    }
    Expect::Nothing
}

fn bells_filled(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    use std::os::unix::fs::OpenOptionsExt;
    for bell in &raw.made.bells {
        // Any end of a pipe can be opened again for writing by who has the other.
        let path = format!("/proc/self/fd/{}", bell.as_raw_fd());
        let mut options = std::fs::OpenOptions::new();
        if let Ok(mut writer) = options.write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            // Bounded, because the engine may empty its own at the same time.
            for _ in 0..32 {
                let _ = std::io::Write::write(&mut writer, &[1; 4096]);
            }
        }
    }
    if dice.chance(50) {
        crate::sys::set_blocking(raw.made.bells[0].as_fd()).expect("its own end");
    }
    // What is asked for is rung for, and never read.
    raw.poke(ARMED_OFFSET, dice.next() | 3);
    if let Some(pair) = raw.pair() {
        for _ in 0..4 {
            raw.say(pair.client, b"ring");
            raw.poke(ARMED_OFFSET, dice.next() | 3);
        }
        leave(raw, send_kind::RESET, &[pair.client, pair.server]);
    }
    Expect::Nothing
}

fn buffers_scribbled(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    for round in 0..3_u16 {
        raw.say_buffers(pair.client, g.buffer_bytes * 2, &[(round * 2, 2)]);
        for _ in 0..20 {
            raw.poke(g.tx_offset() + dice.below(u64::from(g.buffer_bytes * 6)) as usize, dice.next());
        }
    }
    leave_pair(raw, pair);
    Expect::Nothing
}

fn own_traffic(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    for _ in 0..=dice.below(12) {
        let len = a_length(raw, dice);
        if len as usize <= INLINE_BYTES && dice.chance(50) {
            raw.say(pair.client, &vec![7; len as usize]);
        } else {
            raw.say_buffers(pair.client, len, &[(0, raw.geometry().buffers_for(len) as u16)]);
        }
        take_one(raw, pair.server);
    }
    leave_pair(raw, pair);
    Expect::Nothing
}

/// Receives one message of a flow and gives it back. Answers its token if it came in buffers.
fn take_one(raw: &mut Raw, flow: u32) -> Option<u32> {
    let event = raw.event_of(&[flow], &[receive_kind::INLINE, receive_kind::BUFFERS])?;
    give_back(raw, &event)
}

fn give_back(raw: &mut Raw, event: &Event) -> Option<u32> {
    if event.kind == receive_kind::INLINE {
        raw.give_back(receive_done_kind::INLINE_TAKEN, 1, event.flow, event.argument);
        return None;
    }
    raw.give_back(receive_done_kind::BUFFERS_TAKEN, 0, event.flow, event.token());
    Some(event.token())
}

/// Ends the first of these flows, waits for the end of all, and gives everything of them back.
fn leave(raw: &mut Raw, kind: u8, flows: &[u32]) {
    raw.slot(kind, 0, 0, flows[0], 0, &[]);
    for _ in flows {
        raw.event_of(flows, &[receive_kind::RESET, receive_kind::CLOSED, receive_kind::FINISHED]);
    }
    for event in raw.take_stray(flows) {
        if event.kind == receive_kind::BUFFERS {
            give_back(raw, &event);
        }
    }
    for &flow in flows {
        raw.give_back(receive_done_kind::RELEASED, 0, flow, 0);
    }
}

fn leave_pair(raw: &mut Raw, pair: Pair) {
    leave(raw, send_kind::RESET, &[pair.client, pair.server]);
}

fn connect_and_reset(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    for _ in 0..=dice.below(6) {
        let Some(pair) = raw.pair() else { return Expect::Nothing };
        raw.say(pair.server, b"not for long");
        leave_pair(raw, pair);
    }
    Expect::Nothing
}

fn rings_never_drained(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    for _ in 0..raw.geometry().flow_credit {
        let len = dice.pick(&[1, 50, 112]);
        raw.say(pair.client, &vec![1; len]);
    }
    raw.settle();
    leave_pair(raw, pair);
    Expect::Nothing
}

fn remote_flow(raw: &mut Raw, dice: &mut Dice, places: &Places) -> Expect {
    let Some(flow) = raw.connect(places.greeter) else { return Expect::Nothing };
    for _ in 0..dice.below(6) {
        raw.say(flow, b"to the greeter");
    }
    leave(raw, dice.pick(&[send_kind::CLOSE, send_kind::RESET]), &[flow]);
    Expect::Nothing
}

fn wrong_sequence(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let (in_send, g) = (dice.chance(50), raw.geometry());
    let (offset, position, slots) = if in_send {
        (raw.send.next_offset(), raw.send.position(), g.send_slots)
    } else {
        (raw.done.next_offset(), raw.done.position(), g.receive_done_slots())
    };
    let due = position.wrapping_add(1);
    let sequence = loop {
        let any = dice.next_u32();
        let sequence = dice.pick(&[due.wrapping_add(1), due.wrapping_sub(1), u32::MAX, any]);
        if sequence != due && sequence != 0 && sequence != due.wrapping_sub(slots) {
            break sequence;
        }
    };
    raw.poke(offset, u64::from(sequence) | dice.next() << 32);
    raw.nudge();
    Expect::Fault(PeerFault::Sequence)
}

fn wrong_head(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let of_messages = dice.chance(50);
    raw.tells_heads = (!of_messages, of_messages);
    let any = (1 << 31) + dice.next_u32() / 2;
    let beyond = dice.pick(&[1 << 31, u32::MAX, any, 1 << 30]);
    raw.poke(if of_messages { MESSAGE_HEAD_OFFSET } else { DONE_HEAD_OFFSET }, u64::from(beyond));
    // The engine looks at it when the ring seems full.
    while raw.say(pair.client, b"one more") && take_one(raw, pair.server).is_none() && raw_lives(raw) {}
    Expect::Fault(PeerFault::Head)
}

fn raw_lives(raw: &mut Raw) -> bool {
    raw.wait(|_| true)
}

fn wrong_kind(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    if dice.chance(50) {
        let kind = dice.pick(&[0, 6, 7, 127, 128, 255]);
        raw.slot(
            kind,
            dice.next() as u8,
            dice.next() as u16,
            dice.next_u32(),
            dice.next_u32(),
            &[dice.word(); 14],
        );
    } else {
        raw.give_back(dice.pick(&[0, 5, 6, 127, 255]), dice.next() as u16, dice.next_u32(), dice.next_u32());
    }
    Expect::Fault(PeerFault::Kind)
}

fn wrong_length(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    match dice.below(4) {
        0 => {
            let length = dice.pick(&[0, 113, 114, u16::MAX]);
            raw.slot(send_kind::INLINE, 0, length, 0, u32::from(length), &[]);
        }
        1 => {
            let length = dice.pick(&[1, 8, 112]);
            raw.slot(
                send_kind::INLINE,
                0,
                length,
                0,
                u32::from(length) + dice.pick(&[1, 1 << 16, 1 << 31]),
                &[],
            );
        }
        _ => {
            let Some(pair) = raw.pair() else { return Expect::Nothing };
            let len = dice.pick(&[0, raw.geometry().max_send() + 1, u32::MAX, 1 << 31]);
            raw.say_buffers(pair.client, len, &[(0, 1)]);
        }
    }
    Expect::Fault(PeerFault::Length)
}

fn wrong_flow(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let pair = if dice.chance(70) { raw.pair() } else { None };
    let flow = match (dice.below(4), pair) {
        (0, Some(pair)) => pair.client ^ 0x1_0000,
        (1, Some(pair)) => pair.server ^ 0x8000_0000,
        (2, _) => dice.pick(&[u32::MAX, 0xffff, 0x0100_0400]),
        _ => dice.next_u32() | 0x4000,
    };
    match (dice.below(8), pair) {
        (0, _) => raw.say(flow, b"who are you?"),
        (1, _) => raw.say_buffers(flow, 1000, &[(0, 1)]),
        (2, _) => raw.slot(send_kind::CLOSE, 0, 0, flow, 0, &[]),
        (3, _) => raw.slot(send_kind::RESET, 0, 0, flow, 0, &[]),
        (4, _) => raw.give_back(receive_done_kind::INLINE_TAKEN, 1, flow, 0),
        (5, _) => raw.give_back(receive_done_kind::ACCEPTED, 0, flow, 0),
        // The flow lives.
        (6, Some(pair)) => raw.give_back(receive_done_kind::RELEASED, 0, pair.client, 0),
        _ => raw.give_back(receive_done_kind::RELEASED, 0, flow, 0),
    };
    Expect::Fault(PeerFault::Flow)
}

/// Names a flow that it was not told of yet.
fn connecting_flow(raw: &mut Raw, dice: &mut Dice, places: &Places) -> Expect {
    let remote = SocketAddr::new(places.nobody, 9);
    for _ in 0..3 {
        raw.ask_to_connect(&ConnectRequest { remote, local: None, timeout_ms: 60_000 });
    }
    // Of a fresh channel these are the names that they will have; of a used one names of the past.
    let kind = dice.pick(&[send_kind::CLOSE, send_kind::CLOSE, send_kind::RESET, send_kind::INLINE]);
    for flow in 0..3 {
        raw.slot(kind, 0, 8, flow, 8, &[1]);
    }
    if raw.settle() == Outcome::Alive {
        // Time for a neighbour to be given their places in the protocol core, before this application leaves.
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    Expect::Either
}

fn wrong_buffer(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    let two = g.buffer_bytes * 2;
    let end = g.tx_buffers as u16;
    match dice.below(6) {
        0 => raw.slot(send_kind::BUFFERS, 0, 0, pair.client, two, &[2 << 16]),
        1 => {
            let count = dice.pick(&[MAX_EXTENTS as u8 + 1, 128, 255]);
            raw.slot(send_kind::BUFFERS, count, 0, pair.client, two, &[2 << 16; 14])
        }
        2 => {
            let first = dice.pick(&[end, end - 1, u16::MAX]);
            raw.say_buffers(pair.client, two, &[(first, 2)])
        }
        // Too few, too many, none.
        3 => raw.say_buffers(pair.client, two, &[(0, dice.pick(&[0, 1, 3, u16::MAX]))]),
        4 => raw.say_buffers(pair.client, two, &[(3, 1), (3, 1)]),
        _ => raw.say_buffers(pair.client, two, &[(0, 1), (1, 0), (1, 1)]),
    };
    Expect::Fault(PeerFault::Buffer)
}

/// Names buffers of a message that the engine still has.
fn buffer_twice(raw: &mut Raw, _: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    let messages = (g.tx_buffers / 2).min(g.flow_credit - 1) as u16;
    for message in 0..messages {
        // Nobody takes them: the last ones stay with the sender.
        raw.say_buffers(pair.client, g.buffer_bytes * 2, &[(message * 2, 2)]);
    }
    raw.say_buffers(pair.client, g.buffer_bytes * 2, &[(messages * 2 - 2, 2)]);
    Expect::Fault(PeerFault::Buffer)
}

fn credit_overrun(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    let len = 1 + dice.below(112) as usize;
    for _ in 0..g.receive_slots + g.flow_credit + 1 {
        if !raw.say(pair.client, &vec![3; len]) {
            break;
        }
    }
    Expect::Fault(PeerFault::Credit)
}

fn wrong_token(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let pair = if dice.chance(60) { raw.pair() } else { None };
    match pair {
        Some(pair) => {
            raw.say(pair.client, b"a");
            raw.say(pair.client, b"b");
            raw.wait(|raw| raw.try_event().is_some());
            let count = dice.pick(&[0, 3, 1000, u16::MAX]);
            raw.give_back(receive_done_kind::INLINE_TAKEN, count, pair.server, 0)
        }
        None => raw.give_back(receive_done_kind::BUFFERS_TAKEN, 0, 0, dice.next_u32() | 0x1000),
    };
    Expect::Fault(PeerFault::Token)
}

fn token_twice(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    raw.say_buffers(pair.client, 200 + dice.below(u64::from(g.buffer_bytes)) as u32 % 800, &[(0, 1)]);
    let Some(token) = take_one(raw, pair.server) else { return Expect::Either };
    raw.give_back(receive_done_kind::BUFFERS_TAKEN, 0, pair.server, token);
    Expect::Fault(PeerFault::Token)
}

fn released_twice(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    raw.slot(send_kind::CLOSE, 0, 0, pair.client, 0, &[]);
    raw.event(&[receive_kind::FINISHED]);
    raw.give_back(receive_done_kind::RELEASED, 0, pair.client, 0);
    match dice.below(3) {
        0 => raw.give_back(receive_done_kind::RELEASED, 0, pair.client, 0),
        1 => raw.give_back(receive_done_kind::ACCEPTED, 0, pair.client, 0),
        _ => raw.give_back(receive_done_kind::INLINE_TAKEN, 1, pair.client, 0),
    };
    Expect::Fault(PeerFault::Flow)
}

fn random_words(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let pair = if dice.chance(50) { raw.pair() } else { None };
    let bytes = raw.geometry().tx_offset() as u64;
    for _ in 0..1 + dice.below(60) {
        let offset = match dice.below(4) {
            0 => dice.pick(&[ARMED_OFFSET, RUNG_OFFSET, MESSAGE_HEAD_OFFSET, DONE_HEAD_OFFSET]),
            1 => raw.send.next_offset() + dice.below(128) as usize,
            2 => raw.done.next_offset() + dice.below(16) as usize,
            _ => dice.below(bytes) as usize,
        };
        raw.poke(offset.min(bytes as usize - 8), dice.word());
        if dice.chance(20) {
            raw.nudge();
        }
    }
    if let Some(pair) = pair {
        for _ in 0..10 {
            raw.say(pair.client, b"and on");
        }
    }
    Expect::Either
}

fn mutated_slots(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    for _ in 0..1 + dice.below(20) {
        let len = a_length(raw, dice);
        let mut kind =
            dice.pick(&[send_kind::INLINE, send_kind::BUFFERS, send_kind::CONNECT, send_kind::CLOSE]);
        let mut count = 1;
        let mut length = len.min(112) as u16;
        let mut flow = dice.pick(&[pair.client, pair.server]);
        let mut argument = if kind == send_kind::INLINE { len.min(112) } else { len };
        let mut words = [u64::from(g.buffers_for(len) << 16); 14];
        match dice.below(8) {
            0 => kind = dice.next() as u8 & 7,
            1 => count = dice.pick(&[0, 2, 26, 27, 28, 255]),
            2 => length = dice.word() as u16,
            3 => flow = dice.word() as u32,
            4 => argument = dice.word() as u32,
            5 => words[dice.below(14) as usize] = dice.word(),
            _ => {}
        }
        if !raw.slot(kind, count, length, flow, argument, &words) {
            break;
        }
        if dice.chance(30) {
            let kind = 1 + dice.below(4) as u8;
            let any = dice.word() as u32;
            let flow = dice.pick(&[pair.client, pair.server, any]);
            raw.give_back(kind, dice.below(3) as u16, flow, dice.below(4) as u32);
        }
    }
    Expect::Either
}

/// Goes round the ring past what the engine has taken.
fn lapped_ring(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    let first = raw.send.position();
    for place in 0..g.send_slots * 2 {
        let position = first.wrapping_add(place);
        let offset = RING_OFFSET + (position & (g.send_slots - 1)) as usize * 128;
        raw.poke(offset + 8, u64::from(pair.client) | 8 << 32);
        raw.poke(offset, u64::from(position.wrapping_add(1)) | 1 << 32 | 8 << 48);
        if dice.chance(5) {
            raw.nudge();
        }
    }
    raw.nudge();
    Expect::Either
}

/// Changes what was published while the engine reads it.
fn flipped_words(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let g = raw.geometry();
    let stop = Arc::new(AtomicBool::new(false));
    let (region, mut own) = (Arc::clone(&raw.ours), Dice::new(dice.next()));
    let flipper = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || flip(&region, &mut own, g.send_slots, pair, &stop))
    };
    for _ in 0..30 {
        let len = a_length(raw, dice);
        let published = if dice.chance(50) {
            raw.say(pair.client, &vec![9; len.min(112) as usize])
        } else {
            raw.say_buffers(pair.client, len, &[(0, g.buffers_for(len) as u16)])
        };
        if !published {
            break;
        }
        while raw.try_event().is_some() {}
    }
    stop.store(true, Ordering::Relaxed);
    flipper.join().expect("the flipper does not fail");
    Expect::Either
}

fn flip(region: &Mapping<Write>, dice: &mut Dice, slots: u32, pair: Pair, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let slot = RING_OFFSET + dice.below(u64::from(slots)) as usize * 128;
        let place = &region.words_mut::<1>(slot + 8)[0];
        let before = place.load(Ordering::Relaxed);
        for word in [
            u64::from(pair.server) | 5 << 32,
            u64::from(pair.client) | u64::from(dice.next_u32()) << 32,
            u64::from(dice.next_u32()) | 8 << 32,
            before,
        ] {
            place.store(word, Ordering::Relaxed);
        }
        region.words_mut::<1>(slot + 16)[0].store(dice.word(), Ordering::Relaxed);
    }
}

/// Gives flows back without reading that they ended, for others to be made in their place.
fn released_unread(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    let Some(pair) = raw.pair() else { return Expect::Nothing };
    let to = raw.listening_at();
    leave_pair(raw, pair);
    raw.tells_heads = (false, false);
    // What the names will be is known: the places given back last come first, each with its next generation.
    let (mut client, mut server) = (pair.client, pair.server);
    for _ in 0..10 + dice.below(30) {
        (client, server) = (server.wrapping_add(0x1_0000), client.wrapping_add(0x1_0000));
        raw.ask_to_connect(&ConnectRequest { remote: to, local: None, timeout_ms: 0 });
        raw.slot(send_kind::RESET, 0, 0, client, 0, &[]);
        if raw.settle() != Outcome::Alive {
            break;
        }
        raw.give_back(receive_done_kind::RELEASED, 0, client, 0);
        raw.give_back(receive_done_kind::RELEASED, 0, server, 0);
    }
    Expect::Either
}

fn remote_flow_broken(raw: &mut Raw, dice: &mut Dice, places: &Places) -> Expect {
    let Some(flow) = raw.connect(places.greeter) else { return Expect::Nothing };
    let g = raw.geometry();
    for message in 0..4_u16 {
        raw.say(flow, b"small");
        raw.say_buffers(flow, g.buffer_bytes * 2, &[(message * 2, 2)]);
    }
    match dice.below(4) {
        0 => random_words(raw, dice, places),
        1 => wrong_sequence(raw, dice, places),
        2 => wrong_kind(raw, dice, places),
        _ => Expect::Either,
    }
}

fn bells_closed(raw: &mut Raw, dice: &mut Dice, _: &Places) -> Expect {
    if let Some(pair) = raw.pair() {
        raw.poke(ARMED_OFFSET, dice.next() | 3);
        raw.made.bells.clear();
        for _ in 0..4 {
            raw.say(pair.client, b"is anybody there?");
            raw.poke(ARMED_OFFSET, dice.next() | 3);
        }
    }
    Expect::Either
}

/// Talks to an honest application of the same sidecar, and breaks off.
fn neighbour_flooded(raw: &mut Raw, dice: &mut Dice, places: &Places) -> Expect {
    let Some(flow) = raw.connect(places.neighbour) else { return Expect::Either };
    let g = raw.geometry();
    for _ in 0..dice.below(u64::from(g.flow_credit)) {
        raw.say(flow, &[5; 100]);
    }
    for message in 0..3_u16 {
        raw.say_buffers(flow, g.buffer_bytes * 2, &[(message * 2, 2)]);
    }
    match dice.below(3) {
        0 => random_words(raw, dice, places),
        1 => wrong_buffer_of(raw, flow),
        _ => Expect::Either,
    }
}

fn wrong_buffer_of(raw: &mut Raw, flow: u32) -> Expect {
    raw.say_buffers(flow, 2000, &[(u16::MAX, 1)]);
    Expect::Either
}
