//! An application that breaks every rule it can: it ends alone, by a named fault, or nothing happens. Its neighbours' messages
//! all arrive intact, and the engine neither panics nor stalls.
//! Engine, neighbours and the hostile one run in one thread, step by step, so that a seed repeats a run exactly.
//!
//! `HOSTILE_SEED` repeats a run, `HOSTILE_ROUNDS` changes its length.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests; a time is printed")]

#[path = "common/fake.rs"]
mod fake;
#[path = "common/world.rs"]
mod world;

use fake::{FakeApp, Told};
use machnet_client::shm::Geometry;
use machnet_client::shm::layout::{
    ARMED_OFFSET, DONE_HEAD_OFFSET, MESSAGE_HEAD_OFFSET, RING_OFFSET, RUNG_OFFSET,
};
use machnet_client::shm::ring::{Memory, PeerFault, WritableMemory};
use machnet_engine::counters::Counter;
use machnet_engine::mailbox::Command;
use machnet_engine::proto::rng::Rng;
use std::sync::atomic::{AtomicBool, Ordering};
use world::{World, at};

const ROUNDS: u64 = 10_000;
/// Channel of the application that breaks rules.
const HOSTILE: u64 = 99;

fn setting(name: &str, default: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = setting("HOSTILE_SEED", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | now.as_secs() << 30
    });
    println!("HOSTILE_SEED={seed}");
    seed
}

fn below(rng: &mut Rng, limit: u64) -> u64 {
    rng.next_u64() % limit
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[usize::try_from(below(rng, from.len() as u64)).unwrap()]
}

/// A neighbour that sends to another, on the same engine as the hostile one.
struct Neighbours {
    client: FakeApp,
    server: FakeApp,
    flow: u32,
    accepted: u32,
    number: u64,
}

impl Neighbours {
    fn seat(world: &mut World) -> Self {
        let mut client = world.attach(0, 1, Geometry::SMALL);
        let mut server = world.attach(1, 2, Geometry::SMALL);
        world.listen(1, 2, 7, 4);
        world.listen(1, 2, 8, 60_000);
        world.run(10);
        let (flow, accepted) = world.connect(&mut client, 1, 7, &mut server);
        Self { client, server, flow, accepted, number: 0 }
    }

    fn send(&mut self) {
        self.number += 1;
        self.client.send(self.flow, &self.number.to_le_bytes());
    }

    /// What was sent has arrived, once and intact. What the hostile one sends to the server is taken and given back.
    fn check(&mut self, world: &mut World) {
        let mut arrived = false;
        for _ in 0..20 {
            for told in self.server.all() {
                match told {
                    Told::Message { flow, bytes } if flow == self.accepted => {
                        assert!(!arrived, "a neighbour's message arrived twice");
                        assert_eq!(bytes, self.number.to_le_bytes(), "a neighbour's message is intact");
                        self.server.give_back(flow, 1);
                        arrived = true;
                    }
                    Told::Message { flow, bytes } if bytes.len() <= 112 => self.server.give_back(flow, 1),
                    Told::Accepted { flow, .. } => self.server.accept(flow),
                    Told::Closed { flow, .. } | Told::Reset { flow, .. } | Told::Finished { flow } => {
                        assert_ne!(flow, self.accepted, "a neighbour's flow goes on");
                        self.server.release(flow);
                    }
                    _ => {}
                }
            }
            self.client.credits();
            self.server.credits();
            if arrived {
                return;
            }
            world.run(100);
        }
        panic!("a neighbour's message did not arrive");
    }
}

/// Words that are at the edge of something, and any word.
fn word(rng: &mut Rng, geometry: &Geometry, flow: u32) -> u64 {
    let edges = [
        0,
        1,
        2,
        0xffff,
        0x1_0000,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX,
        u64::from(flow),
        u64::from(geometry.send_slots),
        u64::from(geometry.send_slots) + 1,
        u64::from(geometry.tx_buffers) | 1 << 16,
        u64::from(geometry.tx_buffers - 1) | 1 << 16,
        u64::from(geometry.max_send()) << 32 | u64::from(flow),
        (u64::from(geometry.max_send()) + 1) << 32 | u64::from(flow),
    ];
    if below(rng, 3) == 0 { rng.next_u64() } else { pick(rng, &edges) }
}

/// Scribbles over one word of the region that the engine reads.
fn scribble(rng: &mut Rng, app: &FakeApp, flow: u32) {
    let geometry = *app.geometry();
    let done = geometry.receive_done_offset();
    let slot_of_send = RING_OFFSET + usize::try_from(below(rng, 8)).unwrap() * 128;
    let slot_of_done = done + usize::try_from(below(rng, 8)).unwrap() * 16;
    let anywhere = usize::try_from(below(rng, geometry.tx_offset() as u64 / 8)).unwrap() * 8;
    let offset = match below(rng, 8) {
        0 => ARMED_OFFSET,
        1 => RUNG_OFFSET,
        2 => MESSAGE_HEAD_OFFSET,
        3 => DONE_HEAD_OFFSET,
        4 => slot_of_send,
        5 => slot_of_send + usize::try_from(below(rng, 16)).unwrap() * 8,
        6 => slot_of_done + usize::try_from(below(rng, 2)).unwrap() * 8,
        _ => anywhere,
    };
    let word = word(rng, &geometry, flow);
    app.ours.words_mut::<1>(offset)[0].store(word, Ordering::SeqCst);
}

/// Publishes a slot that is due, with some of its fields wrong.
fn publish_wrongly(rng: &mut Rng, app: &FakeApp, sent: &mut u32, done: &mut u32, flow: u32) {
    let geometry = *app.geometry();
    let (kind, count) = (below(rng, 8), below(rng, 30));
    let length = pick(rng, &[0, 1, 8, 112, 113, 65_535]);
    let flow = u64::from(pick(rng, &[flow, flow, flow, flow ^ 0x1_0000, 31, u32::MAX]));
    let argument = pick(rng, &[0, 1, 8, 112, 113, 5_000, 70_000, u64::from(u32::MAX)]);
    if below(rng, 4) == 0 {
        let at = geometry.receive_done_offset() + (*done % geometry.receive_done_slots()) as usize * 16;
        let slot = app.ours.words_mut::<2>(at);
        *done = done.wrapping_add(1);
        slot[1].store(flow | argument << 32, Ordering::Relaxed);
        slot[0].store(u64::from(*done) | below(rng, 6) << 32 | length << 48, Ordering::Release);
        return;
    }
    let slot = app.ours.words_mut::<16>(RING_OFFSET + (*sent % geometry.send_slots) as usize * 128);
    *sent = sent.wrapping_add(1);
    slot[1].store(flow | argument << 32, Ordering::Relaxed);
    for place in &slot[2..] {
        // Extents: often possible ones, sometimes the same buffer twice.
        let extent = |rng: &mut Rng| below(rng, 42) | pick(rng, &[0, 1, 1, 2, 3, 40]) << 16;
        let pair = extent(rng) | extent(rng) << 32;
        place.store(if below(rng, 4) == 0 { rng.next_u64() } else { pair }, Ordering::Relaxed);
    }
    // An honest length now and then, so that something is wrong behind the first check, too.
    let length = if kind == 1 && below(rng, 2) == 0 { argument.min(112) } else { length };
    slot[0].store(u64::from(*sent) | kind << 32 | count << 40 | length << 48, Ordering::Release);
}

/// Sends honest messages, more than the credit allows, and takes back what came without ever moving the heads of its rings.
fn flood(rng: &mut Rng, world: &mut World, app: &mut FakeApp, flow: u32, back: Option<u32>) {
    let burst = pick(rng, &[20, 40, 70]);
    for turn in 0..4 {
        for _ in 0..burst {
            if app.has_send_room() {
                app.send(flow, &[1; 16]);
            }
        }
        world.run(20);
        if let Some(back) = back.filter(|_| turn < 3) {
            app.give_back_unread(back, burst, 16 * u32::from(burst));
            world.run(5);
        }
    }
    if below(rng, 2) == 0 {
        let head = word(rng, app.geometry(), flow);
        app.ours.words_mut::<1>(MESSAGE_HEAD_OFFSET)[0].store(head, Ordering::SeqCst);
        world.run(30);
    }
}

fn faults(world: &World) -> u64 {
    PeerFault::ALL.iter().map(|&fault| world.count(0, Counter::from(fault))).sum()
}

/// One hostile life. Says whether it ended by a fault.
fn round(rng: &mut Rng, world: &mut World, neighbours: &mut Neighbours) -> bool {
    let before = faults(world);
    let mut app = world.attach(0, HOSTILE, Geometry::SMALL);
    world.run(2);
    let (mut flow, mut sent, mut done) = (0, 0, 0);
    if below(rng, 2) == 0 {
        // To the neighbour over the network, or to itself.
        app.connect(1, if below(rng, 2) == 0 { at(1, 8) } else { at(0, 9) });
        world.listen(0, HOSTILE, 9, 4);
        world.run(60);
        sent = 1;
        let mut back = None;
        for told in app.all() {
            match told {
                Told::Connected { flow: name, .. } => flow = name,
                Told::Accepted { flow: name, .. } => back = Some(name),
                _ => {}
            }
        }
        if below(rng, 8) == 0 {
            flood(rng, world, &mut app, flow, back);
        }
    }
    neighbours.send();
    for _ in 0..below(rng, 12) {
        match below(rng, 3) {
            0 => scribble(rng, &app, flow),
            1 => publish_wrongly(rng, &app, &mut sent, &mut done, flow),
            _ => world.run(below(rng, 8)),
        }
    }
    world.run(30);
    neighbours.check(world);
    let faulted = faults(world) > before;
    if !faulted {
        world.engines[0].commands.send(Command::Gone { channel: HOSTILE });
        // The linger time is 100 ms; nothing happens meanwhile.
        world.run(200);
        world.now += machnet_engine::proto::time::Duration::from_millis(101);
        world.run(20);
    }
    assert_eq!(world.ended(0), [HOSTILE], "the channel has ended");
    faults(world) > before
}

#[test]
fn whatever_an_application_writes_ends_in_a_named_fault_or_in_nothing() {
    let seed = seed();
    let mut rng = Rng::new([seed, 1]);
    let mut world = World::new();
    let mut neighbours = Neighbours::seat(&mut world);
    let rounds = setting("HOSTILE_ROUNDS", || ROUNDS);
    let mut faulted = 0;
    for _ in 0..rounds {
        faulted += u64::from(round(&mut rng, &mut world, &mut neighbours));
    }
    println!("{rounds} rounds, {faulted} ended by a fault:");
    for fault in PeerFault::ALL {
        println!("  {:<24}{}", fault.label(), world.count(0, Counter::from(fault)));
    }
    assert_eq!(world.count(0, Counter::ChannelsFaulted), faulted);
    assert!(rounds < 1_000 || PeerFault::ALL.iter().all(|&fault| world.count(0, fault.into()) > 0));
}

/// Words change between the engine's check and its use: only a second thread can do that.
#[test]
fn words_that_change_under_the_engines_eyes_do_no_harm() {
    let seed = seed();
    let mut rng = Rng::new([seed, 2]);
    let mut world = World::new();
    let mut neighbours = Neighbours::seat(&mut world);
    for _ in 0..setting("HOSTILE_ROUNDS", || ROUNDS).div_ceil(20) {
        let mut app = world.attach(0, HOSTILE, Geometry::SMALL);
        world.run(2);
        app.connect(1, at(1, 8));
        world.run(60);
        let flow = match app.next() {
            Some(Told::Connected { flow, .. }) => flow,
            other => panic!("not connected: {other:?}"),
        };
        let stop = AtomicBool::new(false);
        let own_seed = rng.next_u64();
        let app = &app;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::new([own_seed, 3]);
                let (mut sent, mut done) = (1, 0);
                while !stop.load(Ordering::Relaxed) {
                    publish_wrongly(&mut rng, app, &mut sent, &mut done, flow);
                    for _ in 0..8 {
                        // The slot just published, again and again.
                        let slot =
                            RING_OFFSET + (sent.wrapping_sub(1) % app.geometry().send_slots) as usize * 128;
                        let offset = slot + usize::try_from(below(&mut rng, 16)).unwrap() * 8;
                        let old = app.ours.words::<1>(offset).load(0);
                        let bit = 1 << below(&mut rng, 64);
                        app.ours.words_mut::<1>(offset)[0].store(old ^ bit, Ordering::Relaxed);
                    }
                }
            });
            for _ in 0..5 {
                neighbours.send();
                world.run(20);
                neighbours.check(&mut world);
            }
            stop.store(true, Ordering::Relaxed);
        });
        world.engines[0].commands.send(Command::Gone { channel: HOSTILE });
        world.run(10);
        world.now += machnet_engine::proto::time::Duration::from_millis(101);
        world.run(50);
        neighbours.send();
        neighbours.check(&mut world);
        assert_eq!(world.ended(0), [HOSTILE]);
    }
}

/// An application that takes nothing and reads no bell holds up nobody.
#[test]
fn rings_that_are_never_drained_and_bells_that_are_never_read_hold_up_nobody() {
    let mut world = World::new();
    let mut neighbours = Neighbours::seat(&mut world);
    let mut lazy = world.attach(1, HOSTILE, Geometry::SMALL);
    world.listen(1, HOSTILE, 9, 10_000);
    world.run(10);
    let mut rng = Rng::new([1, 2]);
    for number in 0..300_u32 {
        // Flows to the lazy one, messages on them, and an arming for each of its cycles.
        if number < 28 {
            neighbours.client.connect(number, at(1, 9));
        }
        lazy.arm();
        world.run(50);
        for told in neighbours.client.all() {
            if let Told::Connected { flow, .. } = told {
                for _ in 0..60 {
                    neighbours.client.send(flow, &rng.next_u64().to_le_bytes());
                    world.run(2);
                }
            }
        }
        neighbours.send();
        neighbours.check(&mut world);
    }
}
