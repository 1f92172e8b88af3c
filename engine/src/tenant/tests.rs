//! A tenant alone, over real memory, in the hands of a random application: after each step its records add up.

use super::*;
use machnet_client::shm::layout::{receive_done_kind, receive_kind, send_kind};
use machnet_client::shm::region;
use machnet_client::shm::ring::WritableMemory;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

const STEPS: u64 = 100_000;
const GEOMETRY: Geometry = Geometry {
    send_slots: 16,
    receive_slots: 16,
    tx_buffers: 24,
    rx_buffers: 24,
    buffer_bytes: 1024,
    max_flows: 6,
    flow_credit: 8,
};

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    #[expect(clippy::cast_possible_truncation, reason = "callers ask for small numbers")]
    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(u32::try_from(of.len()).unwrap()) as usize]
    }
    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
    fn word(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pick(&[0, 1, u64::MAX, 1 << 63, 1 << 31, 0xffff_ffff, 0xffff]),
            1 => 1 << self.below(64),
            2 => u64::from(self.below(300)),
            _ => self.next(),
        }
    }
}

/// The application's hands and the tenant that must withstand them.
struct World {
    tenant: Tenant,
    hand: Mapping<Write>,
    send: Producer<SLOT_WORDS>,
    done: Producer<DONE_WORDS>,
    receive: Consumer<SLOT_WORDS>,
    view: Mapping<Read>,
    flows: Vec<FlowSlot>,
    reserved: Vec<(FlowSlot, u32, u32)>,
    /// Tokens handed over, perhaps given back already.
    tokens: Vec<u32>,
    _bells: [OwnedFd; 2],
}

fn info() -> FlowInfo {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let max_message = GEOMETRY.max_send();
    FlowInfo { peer: nowhere, local: nowhere, max_message, credit: GEOMETRY.flow_credit }
}

impl World {
    fn new() -> Self {
        let g = GEOMETRY;
        let application = region::create(c"fuzz-application", g.application_bytes()).unwrap();
        let engine = region::create(c"fuzz-engine", g.engine_bytes()).unwrap();
        let hand = Mapping::writable(&application, g.application_bytes()).unwrap();
        region::seal_writer(&application).unwrap();
        let theirs = Mapping::read_only(&application, g.application_bytes()).unwrap();
        let ours = Mapping::writable(&engine, g.engine_bytes()).unwrap();
        let view = Mapping::read_only(&engine, g.engine_bytes()).unwrap();
        let (rings_us, we_ring) = socket::pipe().unwrap();
        let (we_read, they_ring) = socket::pipe().unwrap();
        let identity = Identity {
            channel: 1,
            pid: 1,
            uid: 1,
            name: String::new(),
            version: machnet_client::control::VERSION,
        };
        let bells = Bells { application: we_ring, engine: Some(we_read) };
        Self {
            tenant: Tenant::new(identity, g, theirs, ours, bells),
            hand,
            view,
            send: Producer::new(RING_OFFSET, g.send_slots, MESSAGE_HEAD_OFFSET),
            done: Producer::new(g.receive_done_offset(), g.receive_done_slots(), DONE_HEAD_OFFSET),
            receive: Consumer::new(RING_OFFSET, g.receive_slots, MESSAGE_HEAD_OFFSET),
            flows: Vec::new(),
            reserved: Vec::new(),
            tokens: Vec::new(),
            _bells: [rings_us, they_ring],
        }
    }

    fn handle(&self, dice: &mut Dice) -> u32 {
        let there: Vec<FlowSlot> =
            self.flows.iter().copied().filter(|&slot| self.tenant.find(slot).is_some()).collect();
        if there.is_empty() || dice.below(500) == 0 {
            return u32::try_from(dice.word() & 0xffff_ffff).unwrap();
        }
        self.tenant.handle(dice.pick(&there))
    }

    fn publish_slot(&mut self, dice: &mut Dice) {
        if !matches!(self.send.free(&self.view, 1), Ok(1..)) {
            return;
        }
        let flow = self.handle(dice);
        let is_inline = dice.chance(50);
        let len = if is_inline { 1 + dice.below(112) } else { 1 + dice.below(GEOMETRY.buffer_bytes * 3) };
        let count = GEOMETRY.buffers_for(len);
        let first = dice.below(GEOMETRY.tx_buffers - count + 1);
        let mut head = SlotHead { kind: send_kind::INLINE, count: 0, length: u16::try_from(len).unwrap() };
        let mut words = [u64::from(first | count << 16); SLOT_WORDS - 1];
        words[0] = u64::from(flow) | u64::from(len) << 32;
        if !is_inline {
            head = SlotHead { kind: send_kind::BUFFERS, count: 1, length: 0 };
        }
        match dice.below(40) {
            0 => head.kind = u8::try_from(dice.below(8)).unwrap(),
            1 => head.count = u8::try_from(dice.word() & 0xff).unwrap(),
            2 => head.length = u16::try_from(dice.word() & 0xffff).unwrap(),
            3 => words[dice.below(15) as usize] = dice.word(),
            4 | 5 => head.kind = dice.pick(&[send_kind::CLOSE, send_kind::RESET, send_kind::CONNECT]),
            _ => {}
        }
        self.send.publish(&self.hand, head, |places| {
            for (place, word) in places[1..].iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
        });
    }

    fn publish_done(&mut self, dice: &mut Dice) {
        if !matches!(self.done.free(&self.view, 1), Ok(1..)) {
            return;
        }
        let mut argument = 0;
        let mut flow = self.handle(dice);
        let kind = match self.tokens.pop() {
            Some(token) if dice.chance(70) => {
                argument = token;
                receive_done_kind::BUFFERS_TAKEN
            }
            _ => receive_done_kind::INLINE_TAKEN,
        };
        let ended: Vec<FlowSlot> =
            self.flows.iter().copied().filter(|&slot| self.tenant.look(slot).link == Link::Ended).collect();
        let mut head = SlotHead { kind, count: 0, length: 1 };
        match dice.below(40) {
            0 => head.kind = u8::try_from(dice.below(6)).unwrap(),
            1 => head.length = u16::try_from(dice.word() & 0xffff).unwrap(),
            2 => argument = u32::try_from(dice.word() & 0xffff_ffff).unwrap(),
            3..=9 if !ended.is_empty() => {
                head.kind = receive_done_kind::RELEASED;
                let slot = dice.pick(&ended);
                flow = self.tenant.handle(slot);
                // Named no more, mostly.
                self.flows.retain(|&other| other != slot || dice.chance(5));
            }
            _ if kind == receive_done_kind::INLINE_TAKEN => {
                // Mostly of a flow that has some.
                let with = |slot: &FlowSlot| self.tenant.look(*slot).inline_messages > 0;
                let Some(slot) = self.flows.iter().copied().find(with) else { return };
                flow = self.tenant.handle(slot);
                // One of them, mostly with as many bytes as leave one for each other.
                let there = self.tenant.look(slot);
                if !dice.chance(2) {
                    argument = there.inline_bytes - (there.inline_messages - 1);
                }
            }
            _ => {}
        }
        let word = u64::from(flow) | u64::from(argument) << 32;
        self.done.publish(&self.hand, head, |places| places[1].store(word, Ordering::Relaxed));
    }

    fn drain(&mut self) {
        while let Ok(Some(slot)) = self.receive.peek(&self.view) {
            if slot.head.kind == receive_kind::BUFFERS {
                self.tokens.push(u32::try_from(slot.word(SLOT_WORDS - 1) >> 32).unwrap());
            }
            self.receive.advance();
        }
        self.receive.tell_head(&self.hand);
        let told = u64::from(self.tenant.send_done.position());
        self.hand.words_mut::<1>(DONE_HEAD_OFFSET)[0].store(told, Ordering::Relaxed);
    }

    fn scribble(&mut self, dice: &mut Dice) {
        let end = u32::try_from(GEOMETRY.tx_offset()).unwrap();
        let offset = match dice.below(3) {
            0 => dice.pick(&[128, 256, MESSAGE_HEAD_OFFSET, DONE_HEAD_OFFSET]),
            1 => dice.pick(&[self.send.next_offset(), self.done.next_offset()]),
            _ => dice.below(end / 8) as usize * 8,
        };
        self.hand.words_mut::<1>(offset)[0].store(dice.word(), Ordering::Relaxed);
    }

    fn live(&self, dice: &mut Dice) -> Option<FlowSlot> {
        let lives = |slot: &FlowSlot| self.tenant.find(*slot).is_some_and(|flow| flow.link != Link::Ended);
        let live: Vec<FlowSlot> = self.flows.iter().copied().filter(lives).collect();
        (!live.is_empty()).then(|| dice.pick(&live))
    }

    /// What the engine does of its own accord.
    fn engine_step(&mut self, dice: &mut Dice) -> Result<(), PeerFault> {
        let len = dice.pick(&[1, 112, 113, 1024, 1025, 5000]);
        match (dice.below(8), self.live(dice)) {
            (0, _) | (_, None) => {
                let link = Link::Local { tenant: 0, flow: FlowSlot::default() };
                if let Some(slot) = self.tenant.open_flow(link, info()) {
                    self.flows.retain(|&other| other != slot);
                    self.flows.push(slot);
                }
            }
            (1, Some(slot)) => {
                let in_order = dice.chance(70);
                if let Some(handle) = self.tenant.reserve(slot, len, in_order) {
                    self.tenant.keep(handle, 0, &vec![1; len as usize]);
                    self.reserved.push((slot, handle, len));
                }
            }
            (2, Some(_)) if !self.reserved.is_empty() => {
                let (_, handle, _) = self.reserved.remove(0);
                if !dice.chance(70) || !self.tenant.deliver(handle)? {
                    self.tenant.discard(handle);
                }
            }
            (3 | 4, Some(slot)) => drop(self.tenant.deliver_whole(slot, &vec![2; len as usize])?),
            (5 | 6, Some(slot)) => {
                if let Some(first) = self.tenant.first_sent(slot) {
                    let mut bytes = vec![0; self.tenant.sent_len(first) as usize];
                    self.tenant.copy_out(first, 0, &mut bytes);
                    self.tenant.acknowledged(slot, std::iter::once(first));
                }
            }
            (_, Some(slot)) => {
                // The core discards what it reserved before a flow ends.
                for (_, handle, _) in self.reserved.extract_if(.., |entry| entry.0 == slot) {
                    self.tenant.discard(handle);
                }
                self.tenant.end_flow(slot, receive_kind::CLOSED, 0);
            }
        }
        Ok(())
    }

    fn step(&mut self, dice: &mut Dice) -> Result<(), PeerFault> {
        match dice.below(100) {
            0..30 => self.publish_slot(dice),
            30..50 => self.publish_done(dice),
            50..60 => self.drain(),
            60 => self.scribble(dice),
            _ => {}
        }
        match dice.below(5) {
            0 => drop(self.tenant.publish()?),
            1 => drop(self.tenant.take()?),
            2 => drop(self.tenant.take_back()?),
            3 => self.engine_step(dice)?,
            _ => {
                if dice.chance(50) {
                    self.tenant.arm()
                } else {
                    self.tenant.disarm()
                }
                self.tenant.has_input();
                self.tenant.take_relief();
                self.tenant.ring_drained()?;
                self.tenant.drain_bell();
            }
        }
        Ok(())
    }

    /// What is free and what is held is everything, and every count is the sum of its parts.
    fn assert_adds_up(&self) {
        let tenant = &self.tenant;
        let (mut tx_held, mut rx_held, mut outstanding, mut flows) = (0, 0, 0, 0);
        let mut received: HashMap<FlowSlot, (u32, u32)> = HashMap::new();
        for message in tenant.received.held() {
            let entry = received.entry(message.flow).or_default();
            entry.0 += 1;
            if let store::Content::Buffers(extents) = &message.content {
                // Those that were given room ahead of their turn are counted for the tenant, not for the flow.
                entry.1 += if message.ahead { 0 } else { extents.buffers() };
            }
        }
        for (slot, flow) in tenant.flows() {
            let (messages, buffers) = received.remove(&slot).unwrap_or_default();
            let in_slots = flow.inline_messages;
            assert_eq!(flow.outstanding, messages + in_slots, "messages in the application's hands");
            assert_eq!(flow.rx_buffers, buffers, "RX buffers of a flow");
            let sent = tenant.sent.list(flow.tx_list);
            if flow.link == Link::Ended {
                assert!(sent.is_empty(), "an ended flow holds nothing of the sender's");
            } else {
                assert_eq!(
                    usize::try_from(flow.unacknowledged()).unwrap(),
                    sent.len(),
                    "unacknowledged messages"
                );
            }
            assert!(flow.unacknowledged() <= GEOMETRY.flow_credit, "credit bounds what the engine holds");
            for message in sent {
                if let store::Content::Buffers(extents) = &message.content {
                    tx_held += extents.buffers();
                }
            }
            (rx_held, outstanding, flows) = (rx_held + buffers, outstanding + flow.outstanding, flows + 1);
        }
        assert!(received.is_empty(), "received messages belong to flows");
        assert_eq!(tenant.tx_ledger.free() + tx_held, tenant.tx_ledger.total(), "TX buffers");
        assert_eq!(
            tenant.rx_ledger.free() + rx_held + tenant.ahead_buffers,
            tenant.rx_ledger.total(),
            "RX buffers"
        );
        assert_eq!(tenant.outstanding, outstanding, "messages outstanding");
        assert!(outstanding <= GEOMETRY.receive_slots && flows <= GEOMETRY.max_flows);
    }
}

#[test]
fn whatever_an_application_writes_its_tenant_keeps_its_records_straight() {
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| getrandom::u64().unwrap());
    println!("HOSTILE_SEED={seed}");
    let mut dice = Dice(seed);
    let mut world = World::new();
    let mut faults: HashMap<&'static str, u32> = HashMap::new();
    for _ in 0..STEPS {
        match world.step(&mut dice) {
            Ok(()) => world.assert_adds_up(),
            Err(fault) => {
                *faults.entry(fault.label()).or_default() += 1;
                world = World::new();
            }
        }
    }
    println!("{faults:?}");
    assert!(faults.len() >= 6, "the steps reach deep enough: {faults:?}");
}
