//! The table in virtual time: each test is a story of one or two hosts.

use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OWN_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const OTHER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 66]);

/// A table, the time, and what was sent until then.
struct Story {
    table: Resolver,
    now: Instant,
    asked: Vec<(Instant, Action)>,
}

fn at_ms(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

impl Story {
    /// A host that announced itself a while ago.
    fn begin() -> Self {
        let mut story = Self::of(Resolver::new(OWN, OWN_MAC, true, &[]));
        story.pass(10_000);
        story.asked.clear();
        story
    }

    fn of(table: Resolver) -> Self {
        Self { table, now: Instant::ZERO, asked: Vec::new() }
    }

    /// ... and that knows its peer since just now.
    fn with_peer() -> Self {
        let mut story = Self::begin();
        assert_eq!(story.want(PEER), Answer::Asking);
        assert!(story.claims(PEER, PEER_MAC).learned);
        story.pass(0);
        story.asked.clear();
        story
    }

    fn want(&mut self, address: Ipv4Addr) -> Answer {
        let answer = self.table.want(address, self.now);
        self.collect();
        answer
    }

    fn collect(&mut self) {
        while let Some(action) = self.table.next_action() {
            self.asked.push((self.now, action));
        }
    }

    /// Time passes, and everything that is due is done when it is.
    fn pass(&mut self, ms: u64) -> u32 {
        let end = self.now + Duration::from_millis(ms);
        let mut changed = 0;
        for _ in 0..100_000 {
            let due = self.table.poll_timeout();
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            changed += self.table.handle_timeout(self.now);
            self.collect();
        }
        assert!(self.table.poll_timeout() > end, "a timer is due forever");
        self.now = end;
        changed
    }

    /// An answer comes that nobody need have asked for.
    fn claims(&mut self, address: Ipv4Addr, mac: MacAddress) -> Heard {
        let arp = Arp {
            operation: Operation::Answer,
            sender_mac: mac,
            sender: address,
            target_mac: OWN_MAC,
            target: OWN,
        };
        let heard = self.table.handle_arp(&arp, self.now);
        self.collect();
        heard
    }

    /// Datagrams pass with the peer for so long, one each way every 10 ms.
    fn talk(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.pass(10);
            self.table.handle_traffic(PEER, PEER_MAC, self.now, Some(self.now));
        }
    }

    /// We send for so long, every 10 ms, and nothing comes.
    fn talk_in_vain(&mut self, ms: u64) {
        let heard_at = self.table.entries.get(&PEER).and_then(|entry| entry.heard_at);
        for _ in 0..ms / 10 {
            self.pass(10);
            self.table.handle_traffic(PEER, PEER_MAC, self.now, heard_at);
        }
    }

    fn known(&self) -> Option<MacAddress> {
        self.table.entries.get(&PEER).and_then(Entry::mac)
    }

    /// What was asked about the peer, and whom.
    fn asks(&self) -> Vec<MacAddress> {
        let asks = self.asked.iter().filter_map(|(_, action)| match action {
            Action::Ask { target, to } if *target == PEER => Some(*to),
            _ => None,
        });
        asks.collect()
    }

    fn announcements(&self) -> Vec<u64> {
        let all = self.asked.iter().filter(|(_, action)| *action == Action::Announce);
        all.map(|(at, _)| at.as_nanos() / 1_000_000).collect()
    }
}

#[test]
fn a_wanted_address_is_asked_for_until_somebody_answers() {
    let mut story = Story::begin();
    assert_eq!(story.want(PEER), Answer::Asking);
    assert_eq!(story.asks(), [MacAddress::BROADCAST]);
    story.pass(450);
    assert_eq!(story.asks().len(), 3, "at once and every 200 ms");
    let before = story.table.generation();
    assert!(story.claims(PEER, PEER_MAC).learned);
    assert!(story.table.generation() > before);
    assert_eq!(story.want(PEER), Answer::Known(PEER_MAC));
    story.pass(4_000);
    assert_eq!(story.asks().len(), 3);
}

#[test]
fn an_address_that_nobody_wants_any_more_is_not_asked_for() {
    let mut story = Story::begin();
    story.want(PEER);
    story.pass(60_000);
    assert_eq!(story.asks().len(), 5, "for one second");
    assert!(story.table.entries.is_empty());
    // One that is wanted is asked for as long as it is, if slowly.
    for _ in 0..100 {
        story.want(PEER);
        story.pass(100);
    }
    assert!((20..30).contains(&(story.asks().len() - 5)), "{}", story.asks().len() - 5);
}

#[test]
fn an_address_that_we_have_no_use_for_is_not_learned() {
    let mut story = Story::begin();
    for host in 0..=255 {
        assert_eq!(story.claims([10, 0, 0, host].into(), PEER_MAC), heard_of(host));
    }
    assert!(story.table.entries.is_empty());
}

fn heard_of(host: u8) -> Heard {
    Heard { duplicate: host == OWN.octets()[3], ..Heard::default() }
}

#[test]
fn who_asks_for_our_address_is_answered_unless_the_kernel_does_it() {
    let ask = |sender: Ipv4Addr, target: Ipv4Addr| Arp {
        operation: Operation::Ask,
        sender_mac: PEER_MAC,
        sender,
        target_mac: MacAddress([0; 6]),
        target,
    };
    let mut story = Story::begin();
    assert!(story.table.handle_arp(&ask(PEER, OWN), story.now).wants_answer);
    assert!(story.table.handle_arp(&ask(Ipv4Addr::UNSPECIFIED, OWN), story.now).wants_answer);
    assert!(!story.table.handle_arp(&ask(PEER, [10, 0, 0, 9].into()), story.now).wants_answer);
    assert!(story.table.entries.is_empty());
    let mut silent = Resolver::new(OWN, OWN_MAC, false, &[]);
    assert!(!silent.handle_arp(&ask(PEER, OWN), story.now).wants_answer);
}

#[test]
fn a_static_address_is_never_asked_for_and_never_changes() {
    let mut story = Story::of(Resolver::new(OWN, OWN_MAC, false, &[(PEER, PEER_MAC)]));
    assert_eq!(story.want(PEER), Answer::Known(PEER_MAC));
    assert_eq!(story.claims(PEER, OTHER_MAC), Heard::default());
    story.pass(100_000);
    story.table.handle_new_link(OWN_MAC, story.now);
    assert_eq!(story.want(PEER), Answer::Known(PEER_MAC));
    assert!(story.asked.is_empty());
}

#[test]
fn we_announce_ourselves_at_the_start_and_when_the_link_comes_back_but_not_for_the_kernel() {
    let mut story = Story::of(Resolver::new(OWN, OWN_MAC, true, &[]));
    story.pass(5_000);
    assert_eq!(story.announcements(), [0, 400, 800]);
    // Both queues of the interface tell that it is up again.
    story.table.handle_link_up(story.now);
    story.pass(50);
    story.table.handle_link_up(story.now);
    story.pass(5_000);
    assert_eq!(story.announcements()[3..], [5_000, 5_400, 5_800]);
    story.table.handle_new_link(OTHER_MAC, story.now);
    story.pass(5_000);
    assert_eq!(story.announcements().len(), 9);
    let mut silent = Story::of(Resolver::new(OWN, OWN_MAC, false, &[]));
    silent.table.handle_new_link(OTHER_MAC, silent.now);
    silent.pass(5_000);
    assert!(silent.asked.is_empty());
}

#[test]
fn a_conversation_needs_no_questions() {
    let mut story = Story::with_peer();
    story.talk(120_000);
    assert!(story.asked.is_empty(), "{:?}", story.asked);
    assert_eq!(story.known(), Some(PEER_MAC));
}

#[test]
fn an_entry_that_is_not_used_is_forgotten() {
    let mut story = Story::with_peer();
    story.talk(100);
    let before = story.table.generation();
    story.pass(59_000);
    assert_eq!(story.known(), Some(PEER_MAC));
    story.pass(2_000);
    assert!(story.table.entries.is_empty());
    assert!(story.table.generation() > before, "whoever remembers it has to ask again");
    assert!(story.asked.is_empty());
}

#[test]
fn a_peer_that_falls_silent_is_asked_then_everybody_is_and_then_it_is_given_up() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    story.talk_in_vain(150);
    assert!(story.asked.is_empty(), "it may only be slow");
    story.talk_in_vain(5_000);
    let asks = story.asks();
    assert_eq!(asks[..3], [PEER_MAC; 3]);
    assert!(asks[3..13].iter().all(|to| *to == MacAddress::BROADCAST));
    assert_eq!(story.known(), None);
}

#[test]
fn a_peer_that_answers_questions_and_nothing_else_is_not_asked_all_the_time() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    for _ in 0..100 {
        story.talk_in_vain(100);
        if !story.asked.is_empty() {
            story.claims(PEER, PEER_MAC);
        }
    }
    assert_eq!(story.known(), Some(PEER_MAC));
    assert!((1..5).contains(&story.asks().len()), "{:?}", story.asked);
}

#[test]
fn a_forged_answer_does_not_take_over_a_conversation() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    let generation = story.table.generation();
    for _ in 0..200 {
        assert!(!story.claims(PEER, OTHER_MAC).learned);
        story.talk(50);
        assert_eq!(story.known(), Some(PEER_MAC));
    }
    assert_eq!(story.table.generation(), generation);
    assert!(story.asks().iter().all(|to| *to == PEER_MAC));
    assert!(story.asks().len() <= 25, "a flood of forgeries makes {} questions in 10 s", story.asks().len());
}

#[test]
fn a_forged_answer_does_not_take_over_a_pause_in_a_conversation_either() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    story.pass(1_000);
    story.claims(PEER, OTHER_MAC);
    story.pass(150);
    assert_eq!(story.asks(), [PEER_MAC; 2]);
    assert!(story.claims(PEER, PEER_MAC).rival, "the holder answers");
    story.pass(5_000);
    assert_eq!(story.known(), Some(PEER_MAC));
}

#[test]
fn traffic_from_before_the_rival_came_does_not_refuse_it() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    let heard_at = story.now;
    story.pass(10);
    story.claims(PEER, OTHER_MAC);
    story.pass(40);
    story.table.handle_traffic(PEER, PEER_MAC, story.now, Some(heard_at));
    assert_eq!(story.pass(400), 1);
    assert_eq!(story.known(), Some(OTHER_MAC));
}

#[test]
fn an_address_that_moved_and_was_announced_is_followed_in_less_than_half_a_second() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    let generation = story.table.generation();
    assert!(!story.claims(PEER, OTHER_MAC).learned);
    story.talk_in_vain(400);
    assert_eq!(story.asks(), [PEER_MAC; 3]);
    assert_eq!(story.known(), Some(OTHER_MAC));
    assert!(story.table.generation() > generation);
}

#[test]
fn an_address_that_moved_without_a_word_is_found_in_less_than_a_second() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    let moved_at = story.now;
    for _ in 0..100 {
        story.talk_in_vain(10);
        if story.asks().last() == Some(&MacAddress::BROADCAST) {
            assert!(story.claims(PEER, OTHER_MAC).learned);
            break;
        }
    }
    assert_eq!(story.known(), Some(OTHER_MAC));
    assert!(story.now.since(moved_at) < Duration::from_millis(400), "{:?}", story.now);
}

#[test]
fn an_address_that_is_not_in_use_moves_at_once() {
    let mut story = Story::with_peer();
    story.talk(100);
    story.pass(30_000);
    assert!(story.claims(PEER, OTHER_MAC).learned);
    assert_eq!(story.known(), Some(OTHER_MAC));
}

#[test]
fn a_peer_is_looked_for_anew_when_the_link_comes_back() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    story.table.handle_link_up(story.now);
    story.pass(10);
    assert_eq!(story.asks(), [PEER_MAC]);
    assert_eq!(story.known(), Some(PEER_MAC), "and used meanwhile");
    // The interface is a new one: everything is asked for.
    story.pass(1_000);
    story.table.handle_new_link(OTHER_MAC, story.now);
    assert_eq!(story.want(PEER), Answer::Asking);
}

#[test]
fn another_host_with_our_address_is_told_and_told_again_only_after_a_while() {
    let mut story = Story::begin();
    for _ in 0..200 {
        assert!(story.claims(OWN, OTHER_MAC).duplicate);
        story.pass(100);
    }
    assert_eq!(story.announcements().len(), 2, "in 20 s");
    assert!(!story.claims(OWN, OWN_MAC).duplicate, "that was ourselves");
}

#[test]
fn the_table_is_bounded_and_strangers_do_not_push_out_who_is_in_use() {
    let mut story = Story::with_peer();
    story.talk(1_000);
    for number in 0..10_000_u32 {
        let stranger = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number);
        assert_eq!(story.want(stranger), Answer::Asking);
        assert!(story.table.entries.len() <= MOST_ENTRIES);
    }
    assert_eq!(story.want(PEER), Answer::Known(PEER_MAC));
    // A table that is full of hosts in use has no room for another.
    let mut story = Story::begin();
    for number in 0..u32::try_from(MOST_ENTRIES).unwrap() {
        let host = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number);
        story.want(host);
        story.claims(host, PEER_MAC);
    }
    assert_eq!(story.want(PEER), Answer::Full);
    story.pass(11_000);
    assert_eq!(story.want(PEER), Answer::Asking);
}

#[test]
fn questions_that_nobody_takes_do_not_pile_up() {
    let mut table = Resolver::new(OWN, OWN_MAC, false, &[]);
    for number in 0..1_000_u32 {
        table.want(Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number), at_ms(1));
    }
    assert_eq!(table.actions.len(), MOST_ACTIONS);
}
