//! The memory contract against oracles and against liars. A failing case prints itself, and proptest keeps its seed.
#![allow(clippy::unwrap_used, reason = "tests")]

use machnet_client::control::{DoorbellKind, FailureCode, Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::shm::atomic::{AtomicU64, Ordering};
use machnet_client::shm::layout::{ConnectRequest, FlowInfo, MAX_EXTENTS};
use machnet_client::shm::ledger::{Ledger, may_take};
use machnet_client::shm::ring::{Consumer, Memory, PeerFault, Producer, ReadWords, SlotHead, WritableMemory};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const WORDS: usize = 4;
const HEAD_OFFSET: usize = 0;
const RING_OFFSET: usize = 8;

/// Private memory in the place of a region.
struct Words(Vec<AtomicU64>);

impl Words {
    fn new(slots: u32) -> Self {
        Self((0..1 + slots as usize * WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Memory for Words {
    fn words<const N: usize>(&self, offset: usize) -> ReadWords<'_, N> {
        ReadWords::new(self.words_mut(offset))
    }
}

impl WritableMemory for Words {
    fn words_mut<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        self.0[offset / 8..][..N].try_into().unwrap()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(SlotHead, [u64; 3]),
    Take,
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<(u8, u8, u16)>(), any::<[u64; 3]>()).prop_map(|((kind, count, length), words)| {
            Step::Publish(SlotHead { kind, count, length }, words)
        }),
        3 => Just(Step::Take),
        1 => Just(Step::Tell),
    ]
}

/// A value that somebody who wants to do harm would choose.
fn hostile() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..64_u64,
        any::<u8>().prop_map(|bit| 1_u64.rotate_left(u32::from(bit))),
        Just(u64::MAX),
        (0..8_u64).prop_map(|back| u64::from(u32::MAX) - back),
    ]
}

proptest! {
    #[test]
    fn a_ring_agrees_with_a_queue(log in 1..5_u32, steps in vec(step(), 1..400)) {
        let slots = 1 << log;
        let (producing, consuming) = (Words::new(slots), Words::new(slots));
        let mut producer = Producer::<WORDS>::new(RING_OFFSET, slots, HEAD_OFFSET);
        let mut consumer = Consumer::<WORDS>::new(RING_OFFSET, slots, HEAD_OFFSET);
        let mut oracle = VecDeque::new();
        let mut untold = 0;
        for step in steps {
            match step {
                Step::Publish(head, words) => {
                    let room = slots - u32::try_from(oracle.len()).unwrap() - untold;
                    prop_assert_eq!(producer.free(&consuming, slots).unwrap(), room);
                    if room > 0 {
                        producer.publish(&producing, head, |slot| {
                            for (place, word) in slot[1..].iter().zip(words) {
                                place.store(word, Ordering::Relaxed);
                            }
                        });
                        oracle.push_back((head, words));
                    }
                }
                Step::Take => {
                    let found = consumer.peek(&producing).unwrap();
                    let found = found.map(|slot| (slot.head, [slot.word(1), slot.word(2), slot.word(3)]));
                    prop_assert_eq!(found, oracle.front().copied());
                    if oracle.pop_front().is_some() {
                        consumer.advance();
                        untold += 1;
                    }
                }
                Step::Tell => {
                    prop_assert_eq!(consumer.untold(), untold);
                    consumer.tell_head(&consuming);
                    untold = 0;
                }
            }
        }
    }

    #[test]
    fn a_lying_consumer_is_found_out_or_harmless(
        log in 1..5_u32,
        steps in vec(prop_oneof![Just(None), hostile().prop_map(Some)], 1..100),
    ) {
        let slots = 1 << log;
        let (producing, consuming) = (Words::new(slots), Words::new(slots));
        let mut producer = Producer::<WORDS>::new(RING_OFFSET, slots, HEAD_OFFSET);
        for step in steps {
            if let Some(head) = step {
                consuming.words_mut::<1>(HEAD_OFFSET)[0].store(head, Ordering::Relaxed);
            }
            match producer.free(&consuming, 1) {
                Err(fault) => {
                    prop_assert_eq!(fault, PeerFault::Head);
                    return Ok(());
                }
                Ok(free) => {
                    prop_assert!(free <= slots);
                    if free > 0 {
                        producer.publish(&producing, SlotHead::default(), |_| {});
                    }
                }
            }
        }
    }

    #[test]
    fn a_lying_producer_is_found_out_or_harmless(
        log in 1..5_u32,
        stores in vec((any::<prop::sample::Index>(), hostile()), 1..100),
    ) {
        let slots = 1 << log;
        let (producing, consuming) = (Words::new(slots), Words::new(slots));
        let mut consumer = Consumer::<WORDS>::new(RING_OFFSET, slots, HEAD_OFFSET);
        for (at, value) in stores {
            at.get(&producing.0).store(value, Ordering::Relaxed);
            match consumer.peek(&producing) {
                Err(fault) => {
                    prop_assert_eq!(fault, PeerFault::Sequence);
                    return Ok(());
                }
                Ok(Some(_)) => consumer.advance(),
                Ok(None) => consumer.tell_head(&consuming),
            }
        }
    }

    #[test]
    fn a_ledger_agrees_with_a_set(
        total in 1..300_u32,
        steps in vec((any::<bool>(), 1..40_u32, any::<prop::sample::Index>()), 1..200),
    ) {
        let mut ledger = Ledger::new(total);
        let mut free: BTreeSet<u32> = (0..total).collect();
        let mut taken = Vec::new();
        for (allocate, count, which) in steps {
            if allocate {
                let run_exists = longest_runs(&free).first().is_some_and(|&longest| longest >= count);
                let reachable: u32 = longest_runs(&free).iter().take(MAX_EXTENTS).sum();
                let extents = ledger.allocate(count);
                prop_assert_eq!(extents.is_some(), reachable >= count);
                let Some(extents) = extents else { continue };
                prop_assert_eq!(extents.buffers(), count);
                prop_assert!(!run_exists || extents.as_slice().len() == 1, "one run where there is one");
                for buffer in buffers(&extents) {
                    prop_assert!(free.remove(&buffer), "given twice");
                }
                taken.push(extents);
            } else if !taken.is_empty() {
                let extents = taken.swap_remove(which.index(taken.len()));
                ledger.release(&extents);
                free.extend(buffers(&extents));
            }
            prop_assert_eq!(ledger.free() as usize, free.len());
        }
    }

    #[test]
    fn a_ledger_gives_nothing_for_a_lie(
        total in 1..300_u32,
        claims in vec((vec(prop_oneof![any::<u32>(), (0..320_u32, 0..40_u32).prop_map(|(f, c)| f | c << 16)], 0..30), 0..80_u32), 1..60),
    ) {
        let mut ledger = Ledger::new(total);
        let mut free: BTreeSet<u32> = (0..total).collect();
        let mut taken = Vec::new();
        for (raw, needed) in claims {
            let sum = raw.iter().map(|run| u64::from(run >> 16)).sum::<u64>();
            if sum > 1000 {
                prop_assert_eq!(ledger.claim(&raw, needed), Err(PeerFault::Buffer));
                continue;
            }
            let named: Vec<u32> =
                raw.iter().flat_map(|run| (run & 0xffff)..(run & 0xffff) + (run >> 16)).collect();
            let distinct: BTreeSet<u32> = named.iter().copied().collect();
            let right = raw.len() <= MAX_EXTENTS
                && raw.iter().all(|run| run >> 16 > 0)
                && named.len() == needed as usize
                && distinct.len() == named.len()
                && distinct.is_subset(&free);
            match ledger.claim(&raw, needed) {
                Ok(extents) => {
                    prop_assert!(right);
                    prop_assert_eq!(buffers(&extents).collect::<Vec<_>>(), named);
                    free.retain(|buffer| !distinct.contains(buffer));
                    taken.push(extents);
                }
                Err(fault) => {
                    prop_assert!(!right, "refused {:?}", raw);
                    prop_assert_eq!(fault, PeerFault::Buffer);
                }
            }
            prop_assert_eq!(ledger.free() as usize, free.len(), "a refused claim takes nothing");
            if taken.len() > 3 {
                let extents = taken.remove(0);
                ledger.release(&extents);
                free.extend(buffers(&extents));
            }
        }
    }

    #[test]
    fn the_pieces_of_a_message_cover_it_once(
        total in 30..300_u32,
        holes in vec(any::<prop::sample::Index>(), 0..20),
        bytes in 1..20_000_u32,
        offset in 0..20_000_u32,
    ) {
        let mut ledger = Ledger::new(total);
        for hole in holes {
            let _ = ledger.claim(&[u32::try_from(hole.index(total as usize)).unwrap() | 1 << 16], 1);
        }
        let Some(extents) = ledger.allocate(bytes.div_ceil(1024)) else { return Ok(()) };
        let offset = offset % bytes;
        let all: Vec<usize> = buffers(&extents).flat_map(|b| (0..1024).map(move |i| 4096 + b as usize * 1024 + i)).collect();
        let mut next = offset;
        extents.pieces(4096, 1024, offset, bytes - offset, |at, from, length| {
            assert_eq!(from, next);
            for index in 0..length as usize {
                assert_eq!(all[from as usize + index], at + index);
            }
            next += length;
        });
        prop_assert_eq!(next, bytes);
    }

    #[test]
    fn control_messages_survive_the_way(request in request(), reply in reply()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn no_record_makes_the_decoder_panic(
        mut bytes in vec(any::<u8>(), 0..200),
        request in request(),
        reply in reply(),
        cut in any::<prop::sample::Index>(),
    ) {
        for kind in 0..8 {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
        }
        let at = cut.index(request.encode().len());
        prop_assert!(Request::decode(&request.encode()[..at]).is_err(), "a cut record");
        let at = cut.index(reply.encode().len());
        prop_assert!(Reply::decode(&reply.encode()[..at]).is_err(), "a cut record");
        for mut record in [request.encode(), reply.encode()] {
            let at = cut.index(record.len());
            record[at] ^= 0xff;
            let _ = (Request::decode(&record), Reply::decode(&record));
            record[at] ^= 0xff;
            record.push(0);
            prop_assert!(Request::decode(&record).is_err() || Reply::decode(&record).is_err());
        }
    }

    #[test]
    fn descriptions_survive_their_words(
        remote in address(), local in address(), insists in any::<bool>(), a in any::<u32>(), b in any::<u32>(),
    ) {
        let local_ip = (insists && !local.ip().is_unspecified()).then(|| local.ip());
        let request = ConnectRequest { remote, local: local_ip, timeout_ms: a };
        prop_assert_eq!(ConnectRequest::from_words(request.to_words()), request);
        let info = FlowInfo { peer: remote, local, max_message: a, credit: b };
        prop_assert_eq!(FlowInfo::from_words(info.to_words()), info);
    }

    #[test]
    fn a_possible_geometry_has_room_for_everything(geometry in geometry()) {
        if geometry.fault().is_some() {
            return Ok(());
        }
        let g = geometry;
        prop_assert!(g.receive_done_slots() >= g.receive_slots + g.max_flows);
        prop_assert!(g.tx_offset() >= g.receive_done_offset() + g.receive_done_slots() as usize * 16);
        prop_assert!(g.rx_offset() >= g.send_done_offset() + g.send_done_slots() as usize * 16);
        prop_assert!(g.application_bytes() >= g.tx_offset() + g.tx_buffers as usize * g.buffer_bytes as usize);
        prop_assert!(g.engine_bytes() >= g.rx_offset() + g.rx_buffers as usize * g.buffer_bytes as usize);
        prop_assert!(g.max_send() >= 112 && g.buffers_for(g.max_send()) <= g.tx_buffers);
        prop_assert!(g.max_receive() >= 112 && g.buffers_for(g.max_receive()) <= g.rx_buffers);
        prop_assert!(g.tx_offset().is_multiple_of(4096) && g.engine_bytes().is_multiple_of(4096));
    }

    #[test]
    fn a_share_of_the_pool_is_always_left(total in 10..1000_u32, wants in vec(1..20_u32, 1..200)) {
        // Flows that take one after the other and never give back: each that comes new gets something.
        let mut free = total;
        for wanted in wants {
            let mut held = 0;
            while may_take(held, wanted, free) && held > 0 || may_take(0, wanted, free) && held == 0 {
                held += wanted;
                free -= wanted;
            }
            prop_assert!(held > 0 || wanted > free);
            prop_assert!(held <= wanted || held <= 2 * free);
        }
    }
}

fn buffers(extents: &machnet_client::shm::ledger::Extents) -> impl Iterator<Item = u32> {
    extents.as_slice().iter().flat_map(|run| {
        let first = u32::try_from(run.first().index()).unwrap();
        first..first + run.count()
    })
}

/// Lengths of the runs of adjacent free buffers, longest first.
fn longest_runs(free: &BTreeSet<u32>) -> Vec<u32> {
    let mut runs: Vec<u32> = Vec::new();
    let mut last = None;
    for &buffer in free {
        if last.is_some_and(|last| last + 1 == buffer) {
            *runs.last_mut().unwrap() += 1;
        } else {
            runs.push(1);
        }
        last = Some(buffer);
    }
    runs.sort_unstable_by(|a, b| b.cmp(a));
    runs
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = any::<[u16; 8]>()
        .prop_map(Ipv6Addr::from)
        .prop_map(|v6| v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4));
    (prop_oneof![v4, v6], any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn geometry() -> impl Strategy<Value = Geometry> {
    (4..17_u32, 4..17_u32, 1..65_536_u32, 1..65_536_u32, 10..17_u32, 1..65_536_u32, 2..32_769_u32).prop_map(
        |(send, receive, tx_buffers, rx_buffers, buffer, max_flows, flow_credit)| Geometry {
            send_slots: 1 << send,
            receive_slots: 1 << receive,
            tx_buffers,
            rx_buffers,
            buffer_bytes: 1 << buffer,
            max_flows,
            flow_credit,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<(u32, u32)>(), geometry(), any::<bool>(), any::<u32>(), ".*").prop_map(
            |(versions, geometry, pipe, engine, name)| Request::Hello {
                versions,
                geometry,
                doorbell: if pipe { DoorbellKind::Pipe } else { DoorbellKind::Socket },
                engine,
                name,
            }
        ),
        Just(Request::Mapped),
        (any::<u32>(), address(), any::<u32>()).prop_map(|(request, local, backlog)| Request::Listen {
            request,
            local,
            backlog
        }),
        any::<u32>().prop_map(|listener| Request::Unlisten { listener }),
        Just(Request::Detach),
        Just(Request::Status),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let code = prop::sample::select(vec![
        FailureCode::Version,
        FailureCode::Geometry,
        FailureCode::NoEngine,
        FailureCode::Full,
        FailureCode::AddressNotLocal,
        FailureCode::AddressInUse,
        FailureCode::NoListener,
        FailureCode::Unexpected,
        FailureCode::ShuttingDown,
        FailureCode::Internal,
    ]);
    prop_oneof![
        (any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>(), address(), geometry()).prop_map(
            |(version, channel, engine, pid, local, geometry)| Reply::Welcome {
                version,
                channel,
                engine,
                pid,
                local,
                geometry
            }
        ),
        Just(Reply::Attached),
        (any::<u32>(), any::<u32>(), address()).prop_map(|(request, listener, local)| Reply::Listening {
            request,
            listener,
            local
        }),
        (any::<u32>(), code, ".*").prop_map(|(request, code, text)| Reply::Failed { request, code, text }),
        (any::<bool>(), ".*").prop_map(|(last, text)| Reply::StatusText { last, text }),
    ]
}

#[test]
fn a_text_beyond_the_limit_is_cut_at_a_character() {
    let text = "é".repeat(40_000);
    let record = Reply::StatusText { last: true, text }.encode();
    assert!(record.len() <= machnet_client::control::MAX_RECORD);
    let Ok(Reply::StatusText { text, .. }) = Reply::decode(&record) else { panic!("it is a text") };
    assert_eq!(text, "é".repeat(30_720));
}

#[test]
fn a_ring_goes_on_when_its_positions_wrap() {
    // Positions are modulo 2^32; a ring of two slots goes round until they come by zero only in theory, so the distance
    // arithmetic is what is checked here: a head one beyond the position is a lie, and so is one that went back.
    let (producing, consuming) = (Words::new(2), Words::new(2));
    let mut producer = Producer::<WORDS>::new(RING_OFFSET, 2, HEAD_OFFSET);
    for _ in 0..2 {
        producer.publish(&producing, SlotHead::default(), |_| {});
    }
    consuming.words_mut::<1>(HEAD_OFFSET)[0].store(1, Ordering::Relaxed);
    assert_eq!(producer.free(&consuming, 1), Ok(1));
    producer.publish(&producing, SlotHead::default(), |_| {});
    for lie in [0, 4, u64::from(u32::MAX)] {
        consuming.words_mut::<1>(HEAD_OFFSET)[0].store(lie, Ordering::Relaxed);
        assert_eq!(producer.free(&consuming, 1), Err(PeerFault::Head), "head {lie}");
    }
}
