//! Which hardware address an IP address on the link has: asked for, learned, doubted and forgotten.
//!
//! ```text
//!              wanted                 an answer                    silence, or a rival
//!   (nothing) --------> Asking --------------------> Known ------------------------> Doubted
//!       ^                 | nobody wants it any more   ^  ^   the old one is heard      |  |
//!       +-----------------+                            |  +----------------------------+  |
//!       |                                              +-- a rival, and the old is silent -+
//!       +------------- neither the old one nor anybody else answers -----------------------+
//! ```
//!
//! Only what we want to send to has an entry, so a flood of packets makes none. An entry in use is not overwritten by what
//! anybody claims: its holder is asked first, and only if it is silent the claim is believed.
//!
//! Pure: time is an argument, and what is to be sent is taken by [`Resolver::next_action`].

use super::super::MacAddress;
use super::arp::{Arp, Operation};
use crate::proto::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

/// Most entries, without static ones.
pub(super) const MOST_ENTRIES: usize = 1024;

/// So long after a question the next one is asked ...
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// ... and after so many ...
const QUICK_ASKS: u32 = 5;
/// ... only so often, as long as the address is wanted.
const SLOW_ASK_INTERVAL: Duration = Duration::from_millis(500);
/// An address is wanted so long after something was to be sent to it.
const WANTED: Duration = Duration::from_secs(1);

/// A holder that is in doubt is asked so often before others are asked or believed: ...
const HOLDER_ASKS: u32 = 3;
/// ... so far apart if it is only silent ...
const SILENT_ASK_INTERVAL: Duration = Duration::from_millis(50);
/// ... and so far if a rival waits, to whom a holder that has no processor just then must not lose its place.
const RIVAL_ASK_INTERVAL: Duration = Duration::from_millis(100);
/// Then everybody is asked so often before the entry is given up.
const OPEN_ASKS: u32 = 10;

/// A holder that was sent to and was silent for so long is in doubt, if it was heard since it last answered a question;
const SILENCE: Duration = Duration::from_millis(150);
/// else only after so long: it is there, and has nothing to say.
const SILENCE_OF_THE_MUTE: Duration = Duration::from_secs(5);
/// A holder that was heard within this time, or answered, is believed before a rival is.
const CONFIRMED: Duration = Duration::from_secs(10);
/// After a rival was refused, rivals are not looked at for so long: they must not keep us asking.
const REFUSAL: Duration = Duration::from_millis(500);
/// An entry that nothing was sent to for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Announcements after something changed, and their distance.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_millis(400);
/// Our address is defended at most so often (RFC 5227, DEFEND_INTERVAL).
const DEFENCE_INTERVAL: Duration = Duration::from_secs(10);
/// What the queues of one interface tell within this time is one event.
const TOLD: Duration = Duration::from_millis(250);
/// Actions that wait to be taken; what does not fit is repeated by its timer.
const MOST_ACTIONS: usize = 64;

/// Something to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Ask who has `target`: everybody, or the one who is believed to have it.
    Ask { target: Ipv4Addr, to: MacAddress },
    /// Tell everybody that we have our address.
    Announce,
}

/// What an ARP packet brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Heard {
    /// An address became known, or its hardware address changed.
    pub(super) learned: bool,
    /// Somebody claims the address of a holder that is believed.
    pub(super) rival: bool,
    /// Somebody else has our address.
    pub(super) duplicate: bool,
    /// The sender asks for our address.
    pub(super) wants_answer: bool,
}

/// What is known of an address that something is to be sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Known(MacAddress),
    /// It was asked for.
    Asking,
    /// There is no room for one more.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Asking { asks: u32, next: Instant },
    Known { mac: MacAddress },
    Doubted { mac: MacAddress, rival: Option<MacAddress>, asks: u32, next: Instant, since: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    /// When something was last to be sent there.
    used_at: Instant,
    /// When a datagram last came from there.
    heard_at: Option<Instant>,
    /// When an ARP packet last said what is known already.
    answered_at: Option<Instant>,
    /// When the first of what has had no answer yet was sent.
    unanswered_since: Option<Instant>,
    refused_at: Option<Instant>,
}

impl Entry {
    fn mac(&self) -> Option<MacAddress> {
        match self.state {
            State::Asking { .. } => None,
            State::Known { mac } | State::Doubted { mac, .. } => Some(mac),
        }
    }

    fn is_confirmed(&self, now: Instant) -> bool {
        self.heard_at.max(self.answered_at).is_some_and(|at| now.since(at) < CONFIRMED)
    }

    /// Whether strangers may not push it out.
    fn is_live(&self, now: Instant) -> bool {
        self.mac().is_some() && now.since(self.used_at) < CONFIRMED && self.is_confirmed(now)
    }

    /// How long its holder may be silent while it is sent to.
    fn patience(&self) -> Duration {
        if self.heard_at > self.answered_at { SILENCE } else { SILENCE_OF_THE_MUTE }
    }

    fn doubt(&mut self, rival: Option<MacAddress>, now: Instant) {
        if let State::Known { mac } = self.state {
            self.state = State::Doubted { mac, rival, asks: 0, next: now, since: now };
        }
    }

    fn believe(&mut self, mac: MacAddress) {
        self.state = State::Known { mac };
        self.unanswered_since = None;
    }

    /// When something is to be done about it without anything happening.
    fn due(&self) -> Instant {
        match self.state {
            State::Asking { next, .. } | State::Doubted { next, .. } => next,
            State::Known { .. } => {
                let forget = self.used_at + FORGET;
                self.unanswered_since.map_or(forget, |since| forget.min(since + self.patience()))
            }
        }
    }
}

/// The table of one address of ours; shared by its queues.
#[derive(Debug)]
pub(super) struct Resolver {
    own: Ipv4Addr,
    own_mac: MacAddress,
    /// Whether we tell others where we are; else the kernel does.
    announces: bool,
    fixed: BTreeMap<Ipv4Addr, MacAddress>,
    entries: BTreeMap<Ipv4Addr, Entry>,
    /// Grows whenever what was answered before may be wrong or incomplete.
    generation: u64,
    announcements_left: u32,
    next_announcement: Instant,
    defended_at: Option<Instant>,
    told_at: Option<Instant>,
    actions: VecDeque<Action>,
    /// Nothing is due before.
    due: Instant,
}

impl Resolver {
    pub(super) fn new(
        own: Ipv4Addr,
        own_mac: MacAddress,
        announces: bool,
        fixed: &[(Ipv4Addr, MacAddress)],
    ) -> Self {
        let mut resolver = Self {
            own,
            own_mac,
            announces,
            fixed: fixed.iter().copied().collect(),
            entries: BTreeMap::new(),
            generation: 1,
            announcements_left: 0,
            next_announcement: Instant::ZERO,
            defended_at: None,
            told_at: None,
            actions: VecDeque::new(),
            due: Instant::FAR_FUTURE,
        };
        resolver.announce(Instant::ZERO);
        resolver
    }

    /// Changes whenever an answer of [`Self::want`] may differ from before. Never zero.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What is to be sent next.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Something is to be sent to `address`, which is on the link.
    pub(super) fn want(&mut self, address: Ipv4Addr, now: Instant) -> Answer {
        if let Some(&mac) = self.fixed.get(&address) {
            return Answer::Known(mac);
        }
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.used_at = entry.used_at.max(now);
            return entry.mac().map_or(Answer::Asking, Answer::Known);
        }
        if self.entries.len() >= MOST_ENTRIES && !self.make_room(now) {
            return Answer::Full;
        }
        let state = State::Asking { asks: 1, next: now + ASK_INTERVAL };
        let entry = Entry {
            state,
            used_at: now,
            heard_at: None,
            answered_at: None,
            unanswered_since: None,
            refused_at: None,
        };
        self.due = self.due.min(entry.due());
        self.entries.insert(address, entry);
        self.act(Action::Ask { target: address, to: MacAddress::BROADCAST });
        Answer::Asking
    }

    /// What a queue knows of the traffic with `address`, which it believes to be at `mac`: when something was last sent there,
    /// and when something last came from there.
    pub(super) fn handle_traffic(
        &mut self,
        address: Ipv4Addr,
        mac: MacAddress,
        used_at: Instant,
        heard_at: Option<Instant>,
    ) -> Heard {
        let mut heard = Heard::default();
        let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.mac() == Some(mac)) else {
            return heard;
        };
        entry.used_at = entry.used_at.max(used_at);
        if heard_at > entry.heard_at {
            entry.heard_at = heard_at;
            entry.unanswered_since = None;
        }
        if let (State::Doubted { rival, since, .. }, Some(heard_at)) = (entry.state, heard_at)
            && heard_at > since
        {
            entry.believe(mac);
            if rival.is_some() {
                entry.refused_at = Some(heard_at);
                heard.rival = true;
            }
        }
        if entry.unanswered_since.is_none() && Some(used_at) > entry.heard_at.max(entry.answered_at) {
            entry.unanswered_since = Some(used_at);
        }
        self.due = self.due.min(entry.due());
        heard
    }

    /// An ARP packet came.
    pub(super) fn handle_arp(&mut self, arp: &Arp, now: Instant) -> Heard {
        if arp.sender_mac == self.own_mac {
            return Heard::default();
        }
        if arp.sender == self.own {
            self.defend(now);
            return Heard { duplicate: true, ..Heard::default() };
        }
        let mut heard = if self.fixed.contains_key(&arp.sender) || arp.sender.is_unspecified() {
            Heard::default()
        } else {
            self.handle_claim(arp.sender, arp.sender_mac, now)
        };
        heard.wants_answer = self.announces && arp.operation == Operation::Ask && arp.target == self.own;
        heard
    }

    /// Somebody says that `address` is at `mac`.
    fn handle_claim(&mut self, address: Ipv4Addr, claimed: MacAddress, now: Instant) -> Heard {
        let mut heard = Heard::default();
        let Some(entry) = self.entries.get_mut(&address) else { return heard };
        match entry.state {
            State::Asking { .. } => heard.learned = true,
            State::Known { mac } | State::Doubted { mac, rival: None, .. } if mac == claimed => {
                entry.believe(claimed);
                entry.answered_at = Some(now);
            }
            State::Doubted { mac, .. } if mac == claimed => {
                // The holder lives, and the rival is none.
                entry.believe(claimed);
                (entry.answered_at, entry.refused_at) = (Some(now), Some(now));
                heard.rival = true;
            }
            State::Known { .. } if entry.refused_at.is_some_and(|at| now.since(at) < REFUSAL) => {
                heard.rival = true;
            }
            State::Known { .. } if entry.is_live(now) => entry.doubt(Some(claimed), now),
            State::Known { .. } => heard.learned = true,
            State::Doubted { asks, rival: None, .. } if asks > HOLDER_ASKS => heard.learned = true,
            State::Doubted { ref mut rival, .. } => *rival = Some(claimed),
        }
        if heard.learned {
            entry.believe(claimed);
            (entry.answered_at, entry.heard_at) = (Some(now), None);
            self.generation += 1;
        }
        self.due = self.due.min(entry.due());
        heard
    }

    /// What is due by now. Returns how many addresses have another hardware address since.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> u32 {
        let mut changed = 0;
        let mut forgotten = Vec::new();
        let mut asks = Vec::new();
        for (&address, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.due() <= now) {
            match step(entry, now) {
                Step::Ask(to) => asks.push(Action::Ask { target: address, to }),
                Step::Changed => changed += 1,
                Step::Forget => forgotten.push(address),
            }
        }
        for address in forgotten {
            let entry = self.entries.remove(&address);
            // Nobody has an answer about it that could be wrong, if none was known.
            self.generation += u64::from(entry.is_some_and(|entry| entry.mac().is_some()));
        }
        self.generation += u64::from(changed);
        for ask in asks {
            self.act(ask);
        }
        if self.announcements_left > 0 && self.next_announcement <= now {
            self.announcements_left -= 1;
            self.next_announcement = now + ANNOUNCEMENT_INTERVAL;
            self.act(Action::Announce);
        }
        let announcement =
            if self.announcements_left > 0 { self.next_announcement } else { Instant::FAR_FUTURE };
        self.due = self.entries.values().map(Entry::due).fold(announcement, Instant::min);
        changed
    }

    /// The interface is another one, or may be connected elsewhere: nothing that was learned need hold. Each queue tells.
    pub(super) fn handle_new_link(&mut self, own_mac: MacAddress, now: Instant) {
        if self.own_mac == own_mac && self.is_told_already(now) {
            return;
        }
        self.own_mac = own_mac;
        self.entries.clear();
        self.generation += 1;
        self.announce(now);
    }

    /// The link was down and is up: others may have moved meanwhile, and so may we. Each queue tells.
    pub(super) fn handle_link_up(&mut self, now: Instant) {
        if self.is_told_already(now) {
            return;
        }
        self.entries.retain(|_, entry| now.since(entry.used_at) < CONFIRMED);
        self.generation += 1;
        for entry in self.entries.values_mut() {
            entry.doubt(None, now);
        }
        self.due = now;
        self.announce(now);
    }

    /// Whether another queue has told the same just before.
    fn is_told_already(&mut self, now: Instant) -> bool {
        let is_told = self.told_at.is_some_and(|at| now.since(at) < TOLD);
        if !is_told {
            self.told_at = Some(now);
        }
        is_told
    }

    fn announce(&mut self, now: Instant) {
        if self.announces {
            self.announcements_left = ANNOUNCEMENTS;
            self.next_announcement = now;
            self.due = now;
        }
    }

    fn defend(&mut self, now: Instant) {
        if self.announces && self.defended_at.is_none_or(|at| now.since(at) >= DEFENCE_INTERVAL) {
            self.defended_at = Some(now);
            self.act(Action::Announce);
        }
    }

    fn act(&mut self, action: Action) {
        if self.actions.len() < MOST_ACTIONS {
            self.actions.push_back(action);
        }
    }

    /// Drops the entry that is missed least. `false`: all are in use.
    fn make_room(&mut self, now: Instant) -> bool {
        let dispensable = self.entries.iter().filter(|(_, entry)| !entry.is_live(now));
        let least = dispensable.min_by_key(|(_, entry)| (entry.mac().is_some(), entry.used_at));
        let Some((&address, entry)) = least else { return false };
        self.generation += u64::from(entry.mac().is_some());
        self.entries.remove(&address);
        true
    }
}

/// What a timer of an entry led to.
enum Step {
    Ask(MacAddress),
    Changed,
    Forget,
}

fn step(entry: &mut Entry, now: Instant) -> Step {
    let is_wanted = now.since(entry.used_at) < WANTED;
    match &mut entry.state {
        State::Asking { .. } if !is_wanted => Step::Forget,
        State::Asking { asks, next } => {
            *asks += 1;
            *next = now + if *asks < QUICK_ASKS { ASK_INTERVAL } else { SLOW_ASK_INTERVAL };
            Step::Ask(MacAddress::BROADCAST)
        }
        State::Known { .. } if now.since(entry.used_at) >= FORGET => Step::Forget,
        State::Known { mac } => {
            let mac = *mac;
            entry.doubt(None, now);
            if let State::Doubted { asks, next, .. } = &mut entry.state {
                (*asks, *next) = (1, now + SILENT_ASK_INTERVAL);
            }
            Step::Ask(mac)
        }
        &mut State::Doubted { rival: Some(rival), asks: HOLDER_ASKS.., .. } => {
            entry.believe(rival);
            (entry.answered_at, entry.heard_at) = (Some(now), None);
            Step::Changed
        }
        State::Doubted { asks, .. } if *asks >= HOLDER_ASKS + OPEN_ASKS => Step::Forget,
        State::Doubted { mac, rival, asks, next, .. } => {
            *asks += 1;
            let is_open = *asks > HOLDER_ASKS;
            *next = now
                + match rival {
                    _ if is_open => ASK_INTERVAL,
                    Some(_) => RIVAL_ASK_INTERVAL,
                    None => SILENT_ASK_INTERVAL,
                };
            Step::Ask(if is_open { MacAddress::BROADCAST } else { *mac })
        }
    }
}

#[cfg(test)]
mod tests;
