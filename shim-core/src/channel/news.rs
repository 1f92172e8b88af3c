//! News: what came for those who were told that there is nothing.
//!
//! An event loop learns of them in one of two ways. Either it asks again and again, and the descriptor stays readable until
//! whoever has news has asked: then they are counted. Or it takes them with [`Core::take_news`]: then they are listed, and asking
//! leaves the doorbell alone, so that a ring costs a call for each flow that has news and none for the others.

use super::{Core, FlowId, Source, Wants};
use crate::error::{Error, Result};
use std::collections::VecDeque;

/// What came for a flow, a listener, a connect or the channel since it was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Whose it is: what `set_token` said; 0 if nothing did, and for the channel.
    pub token: u64,
    /// What it is: the constants of this type, added up.
    pub events: u32,
}

impl News {
    /// A receive finds something: a message, or how the flow ended.
    pub const RECEIVE: u32 = 1;
    /// A send that was told `WouldBlock` may find credit and room now, or how the flow ended.
    pub const SEND: u32 = 2;
    /// The listener has a flow.
    pub const ACCEPT: u32 = 4;
    /// The connect has its outcome.
    pub const CONNECT: u32 = 8;
    /// The flow has ended: what was received before comes first.
    pub const ENDED: u32 = 16;
    /// Of the channel: with `RECEIVE`, a message of a flow in channel mode; with `SEND`, credit for one of those, or room for a
    /// connect that was told `WouldBlock`.
    pub const CHANNEL: u32 = 32;

    /// Whether it is (also) one of `events`.
    pub fn is(self, events: u32) -> bool {
        self.events & events != 0
    }
}

/// Whether somebody was told that there is nothing, and what came since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// When, on the clock of [`Board`]; 0: nobody waits.
    since: u64,
    /// The period of [`Board`] in which something came; 0: nothing did.
    period: u64,
    /// It is in the list of [`Board`].
    listed: bool,
}

impl Told {
    /// Whether somebody waits.
    #[inline]
    pub(super) fn is_waited_for(&self) -> bool {
        self.since != 0
    }

    /// Nobody waits: the next message is read from the ring.
    #[inline(always)]
    pub(super) fn forget(&mut self) {
        self.since = 0;
        self.period = 0;
    }
}

/// What came for those who were told that there is nothing.
#[derive(Debug)]
pub(crate) struct Board {
    /// How many of them have not asked since.
    pub(super) count: u32,
    /// When the latest came.
    latest: u64,
    clock: u64,
    /// Counts how often the news were given up, so that nobody has to be visited then.
    period: u64,
    /// When the present round of the loop began; 0: it does not say.
    round: u64,
    /// They are taken, not asked for.
    is_taken: bool,
    /// Who has news, each at most once. With who is no more, until those are too many.
    list: VecDeque<Wants>,
    /// Those who were listed when they went.
    gone: usize,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            count: 0,
            latest: 0,
            clock: 0,
            period: 1,
            round: 0,
            is_taken: false,
            list: VecDeque::new(),
            gone: 0,
        }
    }
}

/// So many of the list may be gone, and as many as are not, before it is gone through.
const GONE_MOST: usize = 64;

impl Board {
    /// Something came.
    #[inline]
    pub(super) fn note(&mut self, told: &mut Told, wants: Wants) {
        if self.is_taken {
            // Credit comes all the time, and mostly nobody waits for it.
            if !told.listed && (told.since != 0 || !wants.is_room()) {
                told.listed = true;
                self.list.push_back(wants);
            }
        } else if told.since != 0 && told.period != self.period {
            told.period = self.period;
            self.count += 1;
            self.clock += 1;
            self.latest = self.clock;
        }
    }

    /// Somebody asks.
    pub(super) fn ask(&mut self, told: &mut Told) {
        if told.period == self.period {
            self.count -= 1;
        }
        told.period = 0;
    }

    /// Somebody found something. Where news are taken, others may wait for the same, so that they are told all the same.
    pub(super) fn satisfy(&mut self, told: &mut Told) {
        if !self.is_taken {
            self.ask(told);
            told.since = 0;
        }
    }

    /// Somebody is no more.
    pub(super) fn remove(&mut self, told: &mut Told) {
        self.satisfy(told);
        self.gone += usize::from(std::mem::take(&mut told.listed));
    }

    /// Somebody is told that there is nothing. Says whether the descriptor has to stay readable for others.
    pub(super) fn tell(&mut self, told: &mut Told) -> bool {
        let again = told.since > self.latest;
        self.clock += 1;
        told.since = self.clock;
        if self.count > 0 && again && self.round == 0 {
            self.give_up();
        }
        self.count > 0
    }

    /// A round of the loop begins. What was there when the last one did concerns nobody who waits.
    pub(super) fn begin_round(&mut self) {
        if self.count > 0 && self.latest <= self.round {
            self.give_up();
        }
        self.clock += 1;
        self.round = self.clock;
    }

    fn give_up(&mut self) {
        self.count = 0;
        self.period += 1;
    }

    /// Whether they are taken, not asked for.
    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        self.is_taken
    }

    fn begin_to_be_taken(&mut self) {
        self.is_taken = true;
        self.give_up();
    }
}

impl Core {
    /// Appends what came since the last call, at most `most`, to `out`; says how many. If they are fewer, the doorbell is armed
    /// and nothing has come since, or the descriptor is readable.
    pub(crate) fn take_news(&mut self, out: &mut Vec<News>, most: usize) -> Result<usize> {
        self.check_over()?;
        if !self.news.is_taken {
            self.begin_to_take_news();
        }
        let (before, limit) = (out.len(), out.len().saturating_add(most));
        self.flush();
        self.poll();
        self.tell_listed(out, limit);
        if self.news.list.is_empty() && self.arm_again() {
            self.poll();
            self.tell_listed(out, limit);
        }
        if self.news.list.is_empty() {
            self.read_answered_bytes(out.len() == before);
        }
        // Whoever waits learns it by asking, so what was found does not have to be told.
        self.check_over()?;
        Ok(out.len() - before)
    }

    fn begin_to_take_news(&mut self) {
        self.enter_event_mode();
        self.news.begin_to_be_taken();
        for handle in self.flows.handles() {
            let id = FlowId { handle };
            let has_come = self.can_recv(Source::Flow(id));
            let Some(flow) = self.flows.find(handle) else { continue };
            if has_come {
                self.news.note(&mut flow.receiving, Wants::Receive(id));
            }
            self.news.note(&mut flow.sending, Wants::Send(id));
        }
        for (&listener, state) in &mut self.listeners {
            self.news.note(&mut state.told, Wants::Accept(listener));
        }
        for (&request, connect) in &mut self.connects {
            self.news.note(&mut connect.told, Wants::Connect(request));
        }
        self.news.note(&mut self.common_told, Wants::Any);
        self.news.note(&mut self.slot_told, Wants::Slot);
    }

    /// A call that does not wait, where news are taken: it leaves the doorbell alone. So either that is armed and will ring for
    /// what comes from now on, or its byte is unread and keeps the descriptor readable.
    pub(super) fn attempt_beside_news<T>(
        &mut self,
        wants: Wants,
        mut call: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let waited = self.told(wants).map(|(_, told)| std::mem::replace(&mut told.since, 1));
        let mut outcome = call(self);
        if matches!(outcome, Ok(None)) && self.over.is_none() {
            self.flush();
            if wants.is_room() {
                self.note_room_waiter(wants);
                // What the last look of the first call brought was no news then.
                outcome = call(self);
            }
        }
        if !matches!(outcome, Ok(None))
            && let (Some(waited), Some((_, told))) = (waited, self.told(wants))
        {
            told.since = waited; // Another who waits for the same is to be told all the same.
        }
        outcome
    }

    fn tell_listed(&mut self, out: &mut Vec<News>, limit: usize) {
        while out.len() < limit {
            let Some(wants) = self.news.list.pop_front() else {
                self.news.gone = 0;
                return;
            };
            out.extend(self.tell_news(wants));
        }
    }

    /// What is news for one of the list; nothing if another call took it meanwhile.
    fn tell_news(&mut self, wants: Wants) -> Option<News> {
        let (_, told) = self.told(wants)?;
        told.listed = false;
        let waited = std::mem::take(&mut told.since) != 0;
        let (token, events) = match wants {
            Wants::Receive(id) => {
                let is_there = self.can_recv(Source::Flow(id));
                let flow = self.flows.look(id.handle).filter(|flow| is_there && !flow.channel_mode)?;
                (flow.token, News::RECEIVE | flow.ended_event())
            }
            Wants::Send(id) => {
                let flow = self.flows.look(id.handle).filter(|_| waited)?;
                let channel = if flow.channel_mode { News::CHANNEL } else { 0 };
                (flow.token, News::SEND | channel | flow.ended_event())
            }
            Wants::Any if self.can_recv(Source::Any) => (0, News::RECEIVE | News::CHANNEL),
            Wants::Slot if waited => (0, News::SEND | News::CHANNEL),
            Wants::Accept(listener) if self.can_accept(listener) => {
                (self.listeners.get(&listener)?.token, News::ACCEPT)
            }
            Wants::Connect(request) if self.can_finish_connect(request) => {
                (self.connects.get(&request)?.token, News::CONNECT)
            }
            Wants::Any | Wants::Slot | Wants::Accept(_) | Wants::Connect(_) => return None,
        };
        Some(News { token, events })
    }

    /// Somebody of the list is no more. The list is cleared of such as soon as they are many.
    pub(super) fn forget_gone(&mut self) {
        if self.news.gone < GONE_MOST || self.news.gone * 2 < self.news.list.len() {
            return;
        }
        let mut list = std::mem::take(&mut self.news.list);
        list.retain(|&wants| self.told(wants).is_some());
        self.news.list = list;
        self.news.gone = 0;
    }

    /// What news of the flow are told with.
    pub(crate) fn set_flow_token(&mut self, id: FlowId, token: u64) -> Result<()> {
        self.flows.named(id)?.token = token;
        Ok(())
    }

    /// As [`Self::set_flow_token`], of a listener.
    pub(crate) fn set_listener_token(&mut self, listener: u32, token: u64) -> Result<()> {
        self.listeners.get_mut(&listener).ok_or(Error::Closed)?.token = token;
        Ok(())
    }

    /// As [`Self::set_flow_token`], of a connect under way.
    pub(crate) fn set_connect_token(&mut self, request: u32, token: u64) -> Result<()> {
        self.connects.get_mut(&request).ok_or(Error::UnknownFlow)?.token = token;
        Ok(())
    }
}
