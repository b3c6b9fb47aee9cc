//! One thread: its clients, one epoll, turn after turn.
//!
//! `wait → read what came → publish what is due → write what else there is → show the counts`, with one read and one write a client. Level-triggered: one read takes
//! what is there, and what is left says so again. All clients share the buffers; one that is quiet has none.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::client::{Client, Publisher, Receiver, State, Tracks};
use crate::context::Context;
use crate::counters::{Counts, Outcome};
use crate::failure::Failure;
use crate::flight::Flight;
use crate::link::Link;
use crate::pace::{Pace, Turn, share_of};
use crate::plan::{Kind, Side};
use crate::process::{self, SECOND, now};
use crate::protocol;
use crate::shared::{Phase, Schedule, Shared};
use crate::wire::{self, PublishForm};

/// Events of one wait.
const EVENTS: usize = 1_024;
/// What may wait for a server that reads nothing.
const MAX_WAITING: usize = 8 << 20;
/// The event of the eventfd.
const WAKE: u64 = u64::MAX;
/// How often clients are looked at for what is late.
const ROUND: u64 = SECOND;

/// Runs a thread's part until the end of the run.
///
/// # Errors
/// The thread could not begin.
pub(crate) fn run(shared: &Shared, me: usize) -> Result<Outcome, String> {
    let mut engine = Engine::new(shared, me)?;
    while shared.phase() < Phase::End {
        engine.turn()?;
    }
    Ok(engine.end())
}

struct Engine<'a> {
    epoll: OwnedFd,
    events: Vec<Event>,
    clients: Vec<Client>,
    context: Context<'a>,
    /// What was read, of the client whose turn it is.
    plain: Vec<u8>,
    scratch: Vec<u8>,
    /// Clients before this one have begun to connect.
    next: usize,
    connecting: usize,
    most_connecting: usize,
    /// Clients whose socket takes no more for now.
    blocked: u64,
    /// When connections are begun; `None`: as fast as they come up.
    connect_pace: Option<Pace>,
    next_round: u64,
    /// The counts when measuring began, and when it ended.
    measured_from: Option<Counts>,
    measured: Option<Counts>,
}

impl<'a> Engine<'a> {
    fn new(shared: &'a Shared, me: usize) -> Result<Self, String> {
        let failed = |error| format!("cannot make an epoll: {error}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let wake = shared.threads[me].wake_fd();
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(failed)?;
        let plan = &shared.plan;
        let clients = plan.clients_of(me).into_iter().map(|(side, index)| Client::new(side, index));
        let clients: Vec<Client> = clients.collect();
        let all = f64::from(plan.publishers) + f64::from(plan.subscribers);
        let rate = plan.options.connect_rate * clients.len() as f64 / all;
        let begin = now();
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            clients,
            context: Context::new(shared, me),
            plain: Vec::new(),
            scratch: Vec::new(),
            next: 0,
            connecting: 0,
            most_connecting: plan.options.connecting as usize,
            blocked: 0,
            connect_pace: (rate > 0.0).then(|| Pace::new(begin, rate, SECOND / 1_000)),
            next_round: begin + ROUND,
            measured_from: None,
            measured: None,
        })
    }

    fn turn(&mut self) -> Result<(), String> {
        self.wait()?;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.event(&event);
        }
        self.events = events;
        let now = now();
        self.by_schedule(now);
        self.connect_some(now);
        self.publish(now);
        self.flush(now);
        if now >= self.next_round {
            self.round(now);
            self.flush(now);
        }
        for (thread, opened) in self.context.opened.iter_mut().enumerate() {
            if !opened.is_empty() {
                self.context.shared.threads[thread].open(opened);
            }
        }
        let live = self.context.live();
        live.show(&self.context.counts);
        live.blocked.store(self.blocked, Ordering::Relaxed);
        if self.measured.is_some() {
            live.stopped.store(1, Ordering::Release);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), String> {
        let timeout = self.timeout();
        let timeout = Timespec { tv_sec: (timeout / SECOND).cast_signed(), tv_nsec: (timeout % SECOND).cast_signed() };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(format!("cannot wait for events: {error}")),
        }
    }

    /// Nanoseconds until there is something to do without an event.
    fn timeout(&self) -> u64 {
        if !self.context.runnable.is_empty() {
            return 0;
        }
        let now = now();
        let mut until = self.next_round;
        if self.context.sending
            && let Some(pace) = &self.context.pace
        {
            until = until.min(pace.time(self.context.due));
        }
        if self.next < self.clients.len() && self.connecting < self.most_connecting && self.may_connect() {
            until = until.min(self.connect_pace.map_or(0, |pace| pace.time(self.next as u64)));
        }
        if let Some(schedule) = self.context.shared.schedule.get() {
            // What is in the past has been seen to, or is by this turn.
            for time in [schedule.start, schedule.measure, schedule.end] {
                if time > now {
                    until = until.min(time);
                }
            }
        }
        until.saturating_sub(now)
    }

    fn event(&mut self, event: &Event) {
        // The structure is packed: its fields are copied out.
        let (data, flags) = ({ event.data }.u64(), { event.flags });
        if data == WAKE {
            let mailbox = &self.context.shared.threads[self.context.me];
            mailbox.woken();
            mailbox.take_opened(&mut self.context.runnable);
            return;
        }
        let Ok(slot) = usize::try_from(data) else { return };
        if self.clients.get(slot).is_none_or(|client| client.link.is_none()) {
            return;
        }
        let result = if self.clients[slot].state == State::Connecting {
            self.connected(slot)
        } else {
            let writable = flags.contains(EventFlags::OUT);
            if writable {
                self.mark(slot);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) { self.read(slot) } else { Ok(()) }
        };
        if let Err(failure) = result {
            self.fail(slot, &failure);
        }
    }

    /// TCP is connected, or not.
    fn connected(&mut self, slot: usize) -> Result<(), Failure> {
        let client = &mut self.clients[slot];
        if let Some(link) = &mut client.link {
            link.connected()?;
        }
        client.state = State::Handshake;
        self.interest(slot, EventFlags::IN);
        self.handshake(slot)
    }

    fn handshake(&mut self, slot: usize) -> Result<(), Failure> {
        let plan = self.context.plan();
        let client = &mut self.clients[slot];
        if let Some(link) = &mut client.link
            && link.handshake(plan.endpoints.of(client.side, client.index), rand::random())?
        {
            client.state = State::Connect;
            protocol::write_connect(plan, client);
        }
        self.mark(slot);
        Ok(())
    }

    fn read(&mut self, slot: usize) -> Result<(), Failure> {
        let client = &mut self.clients[slot];
        let Some(link) = &mut client.link else { return Ok(()) };
        self.plain.clear();
        self.plain.append(&mut client.partial);
        let before = self.plain.len();
        if link.read(&mut self.plain, &mut self.scratch)? == 0 {
            return Err(Failure::Closed(client.state.when()));
        }
        // Not the turn's: what is read last has waited for all the others.
        let now = now();
        self.context.counts.bytes_received += (self.plain.len() - before) as u64;
        if client.state == State::Handshake {
            self.handshake(slot)?;
        }
        let client = &mut self.clients[slot];
        let before = client.state;
        let mut at = 0;
        let mut result = Ok(());
        while at < self.plain.len() && result.is_ok() {
            match wire::frame(&self.plain[at..]) {
                Ok(Ok(frame)) => {
                    at += frame.length;
                    result = protocol::receive(client, &mut self.context, frame, now);
                }
                Ok(Err(_)) => break,
                Err(error) => result = Err(error.into()),
            }
        }
        if result.is_ok() {
            client.partial.extend_from_slice(&self.plain[at..]);
        }
        if self.plain.capacity() > 4 * crate::link::READ {
            self.plain = Vec::new();
        }
        if std::mem::take(&mut self.context.own_runnable) {
            self.context.runnable.push(slot as u32);
        }
        if client.state == State::Ready && before != State::Ready {
            self.connecting -= 1;
            self.quiet(slot);
        }
        let client = &self.clients[slot];
        if !client.out.is_empty() || client.link.as_ref().is_some_and(Link::has_answer) {
            self.mark(slot);
        }
        result
    }

    /// A connection that came up needs no buffers before it has something to say.
    fn quiet(&mut self, slot: usize) {
        let client = &mut self.clients[slot];
        if self.context.shared.plan.kind == Kind::Conn {
            if client.out.is_empty() {
                client.out = Vec::new();
            }
            if client.partial.is_empty() {
                client.partial = Vec::new();
            }
            if let Some(link) = &mut client.link {
                link.shrink();
            }
        }
    }

    /// What the schedule and the phase say.
    fn by_schedule(&mut self, now: u64) {
        let shared = self.context.shared;
        let Some(&Schedule { start, measure, end }) = shared.schedule.get() else { return };
        let over = now >= end || shared.phase() >= Phase::Drain;
        if !self.context.sending && !over && now >= start && self.measured.is_none() {
            self.begin(start, measure);
        }
        if self.measured_from.is_none() && now >= measure {
            self.measured_from = Some(self.context.counts);
        }
        if over && self.measured.is_none() {
            self.context.sending = false;
            let from = self.measured_from.unwrap_or(self.context.counts);
            self.measured = Some(self.context.counts.since(&from));
        }
    }

    fn begin(&mut self, start: u64, measure: u64) {
        let plan = self.context.plan();
        self.context.sending = true;
        self.context.measure = measure;
        let publishers = self.clients.iter().filter(|client| client.side == Side::Publisher).count();
        if plan.rate > 0.0 && publishers > 0 {
            let rate = plan.rate * publishers as f64 / f64::from(plan.publishers);
            self.context.pace = Some(Pace::new(start, rate, plan.tick));
        } else {
            let all = self.clients.iter().enumerate().filter(|(_, client)| client.publisher.is_some());
            self.context.runnable.extend(all.map(|(slot, _)| slot as u32));
        }
    }

    /// Begins as many connections as may be.
    fn connect_some(&mut self, now: u64) {
        while self.next < self.clients.len() && self.connecting < self.most_connecting && self.may_connect() {
            if self.connect_pace.is_some_and(|pace| pace.due(now) <= self.next as u64) {
                break;
            }
            let slot = self.next;
            self.next += 1;
            self.connecting += 1;
            if let Err(failure) = self.connect(slot, now) {
                self.fail(slot, &failure);
            }
        }
    }

    fn may_connect(&self) -> bool {
        self.context.shared.phase() == Phase::Connect
    }

    fn connect(&mut self, slot: usize, now: u64) -> Result<(), Failure> {
        let plan = self.context.plan();
        let client = &mut self.clients[slot];
        client.began = now;
        client.state = State::Connecting;
        match client.side {
            Side::Publisher => {
                let topic = plan.topic.fill(client.index, &plan.client_id(client.side, client.index), plan.run);
                let payload = vec![0; plan.payload];
                let form = PublishForm::new(&topic, plan.qos, plan.version, &payload)
                    .map_err(|error| Failure::Connect(std::io::Error::other(error.to_string())))?;
                let window = if plan.qos == raftmq_mqtt::QoS::AtMostOnce { 0 } else { plan.window };
                let publishers = u64::from(plan.publishers);
                let threads = plan.threads as u64;
                let mine = publishers / threads + u64::from(publishers % threads > self.context.me as u64);
                client.publisher = Some(Box::new(Publisher {
                    form,
                    flight: Flight::new(window),
                    sent: 0,
                    quota: plan.messages.map_or(u64::MAX, |all| share_of(all, u64::from(client.index), publishers)),
                    turn: Turn { ordinal: u64::from(client.index) / threads, of: mine.max(1) },
                    runnable: false,
                    stuck_since: 0,
                    more: false,
                }));
            }
            Side::Subscriber if plan.subscriptions > 0 => {
                let tracks = self.context.tracks(client.side, client.index);
                client.receiver = Some(Box::new(Receiver { tracks, ..Receiver::default() }));
            }
            Side::Subscriber => {}
        }
        let from = plan.options.bind.get(client.index as usize % plan.options.bind.len().max(1)).copied();
        let link = Link::connect(plan.endpoints.of(client.side, client.index), from)?;
        let added = epoll::add(&self.epoll, link.as_fd(), EventData::new_u64(slot as u64), EventFlags::OUT);
        client.link = Some(link);
        added.map_err(|error| Failure::connect(error.into()))
    }

    /// Marks what is due, and lets publishers send it.
    fn publish(&mut self, now: u64) {
        if self.context.sending
            && let Some(pace) = &self.context.pace
        {
            let due = pace.due(now);
            let before = std::mem::replace(&mut self.context.due, due);
            let publishers = self.clients.len() - self.first_publisher();
            // Everyone, when more than a round is due.
            for k in before..due.min(before + publishers as u64) {
                let slot = self.first_publisher() + (k % publishers as u64) as usize;
                if let Some(publisher) = &mut self.clients[slot].publisher
                    && !publisher.runnable
                {
                    publisher.runnable = true;
                    self.context.runnable.push(slot as u32);
                }
            }
        }
        let mut runnable = std::mem::take(&mut self.context.runnable);
        for slot in runnable.drain(..) {
            let slot = slot as usize;
            let client = &mut self.clients[slot];
            let waiting = client.waiting();
            let Some(publisher) = client.publisher.as_mut().filter(|_| client.state == State::Ready) else { continue };
            // Those before it took their time: what it sends is not older than this.
            let now = process::now();
            self.context.publish(publisher, client.index, &mut client.out, waiting, now);
            self.flush_one(slot, now);
        }
        // Those that may go on in the next turn.
        runnable.append(&mut self.context.runnable);
        self.context.runnable = runnable;
    }

    /// Subscribers come first in the list of clients.
    fn first_publisher(&self) -> usize {
        let plan = self.context.plan();
        let (threads, me) = (plan.threads, self.context.me);
        (plan.subscribers as usize + threads - 1 - me) / threads
    }

    /// It has something to send.
    fn mark(&mut self, slot: usize) {
        let client = &mut self.clients[slot];
        if !client.dirty {
            client.dirty = true;
            self.context.dirty.push(slot as u32);
        }
    }

    /// What is left to be written.
    fn flush(&mut self, now: u64) {
        let mut dirty = std::mem::take(&mut self.context.dirty);
        for slot in dirty.drain(..) {
            self.clients[slot as usize].dirty = false;
            self.flush_one(slot as usize, now);
        }
        self.context.dirty = dirty;
    }

    fn flush_one(&mut self, slot: usize, now: u64) {
        let client = &mut self.clients[slot];
        let Some(link) = client.link.as_mut().filter(|_| client.state != State::Connecting) else { return };
        if client.out.is_empty() && !link.has_answer() && !client.blocked {
            return;
        }
        self.context.counts.bytes_sent += client.out.len() as u64;
        client.sent_at = now;
        let result = link.flush(&mut client.out);
        match result {
            Ok(true) => {
                if let Some(publisher) =
                    client.publisher.as_mut().filter(|publisher| publisher.more && !publisher.runnable)
                {
                    publisher.runnable = true;
                    self.context.runnable.push(slot as u32);
                }
                if std::mem::take(&mut client.blocked) {
                    self.blocked -= 1;
                    self.interest(slot, EventFlags::IN);
                }
                if self.clients[slot].state == State::Ready {
                    self.quiet(slot);
                }
            }
            Ok(false) if client.waiting() > MAX_WAITING.max(2 * self.context.shared.plan.payload) => {
                self.fail(slot, &Failure::Clogged);
            }
            Ok(false) => {
                if !std::mem::replace(&mut client.blocked, true) {
                    self.blocked += 1;
                    self.interest(slot, EventFlags::IN | EventFlags::OUT);
                }
            }
            Err(failure) => self.fail(slot, &failure),
        }
    }

    fn interest(&self, slot: usize, flags: EventFlags) {
        if let Some(link) = &self.clients[slot].link {
            // A socket that is not in there any more has no events either.
            let _ = epoll::modify(&self.epoll, link.as_fd(), EventData::new_u64(slot as u64), flags);
        }
    }

    /// Once a second: who waits for too long, who has to say that it is alive.
    fn round(&mut self, now: u64) {
        self.next_round = now + ROUND;
        let timeout = self.context.plan().options.timeout.get().as_nanos() as u64;
        let seconds = timeout / SECOND;
        for slot in 0..self.next {
            let client = &mut self.clients[slot];
            let result = match client.state.waits_for() {
                Some(what) if now.saturating_sub(client.began) > timeout => Err(Failure::Late(seconds, what)),
                None if client.state == State::Ready => protocol::keep_alive(client, timeout, now),
                _ => Ok(()),
            };
            if let Err(failure) = result {
                self.fail(slot, &failure);
                continue;
            }
            if !client.out.is_empty() {
                self.mark(slot);
            }
            let client = &mut self.clients[slot];
            if self.context.sending
                && let Some(publisher) = &mut client.publisher
                && publisher.stuck_since > 0
                && now.saturating_sub(publisher.stuck_since) > timeout
                && client.state == State::Ready
            {
                publisher.stuck_since = now;
                if let Some(window) = self.context.shared.windows.get(client.index as usize) {
                    window.give_up(publisher.sent);
                }
                self.context.error(&Failure::Stalled(seconds));
                self.context.runnable.push(slot as u32);
            }
        }
    }

    /// A client is over.
    fn fail(&mut self, slot: usize, failure: &Failure) {
        let client = &mut self.clients[slot];
        let before = std::mem::replace(&mut client.state, State::Closed);
        client.link = None;
        self.blocked -= u64::from(std::mem::take(&mut client.blocked));
        (client.out, client.partial) = (Vec::new(), Vec::new());
        let (side, index) = (client.side, client.index);
        match before {
            State::Closed => return,
            State::Ready => {
                self.context.counts.lost += 1;
                self.context.present(side, -1);
            }
            _ => {
                self.context.counts.failed += 1;
                self.connecting = self.connecting.saturating_sub(1);
            }
        }
        self.context.error(failure);
        let plan = self.context.plan();
        if side == Side::Subscriber && !plan.shared {
            // Nobody waits for what it would have got.
            let windows = &self.context.shared.windows;
            let its = if plan.kind == Kind::Pair {
                index as usize..windows.len().min(index as usize + 1)
            } else {
                0..windows.len()
            };
            windows[its].iter().for_each(crate::window::Window::one_less);
        }
    }

    /// Everybody disconnects.
    fn end(mut self) -> Outcome {
        let plan = self.context.plan();
        for client in &mut self.clients {
            if client.state == State::Ready
                && let Some(link) = &mut client.link
            {
                protocol::write_disconnect(plan, &mut client.out);
                link.close(&mut client.out);
            }
            if let Some(receiver) = &client.receiver
                && let Tracks::Any(tracks) = &receiver.tracks
            {
                self.context.outcome.gaps += tracks.values().map(|track| track.missing()).sum::<u64>();
            }
        }
        let mut outcome = self.context.outcome;
        outcome.total = self.context.counts;
        outcome.measured = self.measured.unwrap_or_default();
        outcome
    }
}
