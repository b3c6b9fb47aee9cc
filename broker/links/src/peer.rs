//! A peer that this node dials: what waits for it, and what is known of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::dial;
use crate::error::{LinkError, SendError};
use crate::hello::{Hello, PeerHello};
use crate::io::Batch;
use crate::metrics::{DropReason, PeerStatus};
use crate::options::Class;
use crate::outbox::Outbox;
use crate::requests::Requests;
use crate::shared::{Shared, lock};

/// A one-way frame that was dropped: its kind, it, and whether the peer may have handled it.
pub(crate) type Undelivered = (u16, Bytes, bool);

/// What a stream carries.
pub(crate) enum Work {
    Requests(Requests),
    Outbox(Outbox),
    /// The peer was forgotten.
    Closed,
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Work::Requests(requests) => requests.bytes(),
            Work::Outbox(outbox) => outbox.bytes(),
            Work::Closed => 0,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        match self {
            Work::Requests(requests) => requests.is_waiting(),
            Work::Outbox(outbox) => outbox.is_waiting(),
            Work::Closed => false,
        }
    }

    pub(crate) fn fill(&mut self, batch: &mut Batch) {
        match self {
            Work::Requests(requests) => requests.fill(batch, Instant::now()),
            Work::Outbox(outbox) => outbox.fill(batch),
            Work::Closed => {}
        }
    }
}

/// One stream to the peer.
pub(crate) struct Lane {
    work: Mutex<Work>,
    /// Something waits to be written.
    pub(crate) notify: Notify,
    /// Dial now, or look whether the connection is still to the right boot.
    pub(crate) poke: Notify,
    started: AtomicBool,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Lane {
    fn new(work: Work) -> Self {
        Lane {
            work: Mutex::new(work),
            notify: Notify::new(),
            poke: Notify::new(),
            started: AtomicBool::new(false),
            task: Mutex::new(None),
        }
    }
}

#[derive(Default)]
struct State {
    hello: Option<Hello>,
    connected: [bool; 4],
    /// By which node each stream goes, where it is not straight.
    via: [Option<String>; 4],
    /// When others were asked for a way to it and nobody had one, and how long they are not asked again.
    unhelped: Option<(Instant, Duration)>,
    /// On which of its connections nothing is answered.
    suspect: [bool; 4],
    /// Why each stream is not connected, and whether somebody refused.
    errors: [Option<(String, bool)>; 4],
    /// Which boot is known to live there, when that was learnt elsewhere.
    expected: Option<(u128, u64)>,
}

pub(crate) struct Peer {
    pub(crate) address: String,
    lanes: [Lane; 4],
    state: Mutex<State>,
    /// Microseconds; 0: none measured.
    rtt: AtomicU64,
    /// What is handed over to it waits: the connection for one-way frames broke, or could not be made.
    lost: AtomicBool,
}

impl Peer {
    pub(crate) fn new(address: &str, shared: &Shared) -> Self {
        let requests = || {
            let options = &shared.options;
            Lane::new(Work::Requests(Requests::new(options.request_queue_bytes, options.max_outstanding)))
        };
        Peer {
            address: address.to_owned(),
            lanes: [
                requests(),
                requests(),
                requests(),
                Lane::new(Work::Outbox(Outbox::new(shared.options.send_queue_bytes))),
            ],
            state: Mutex::default(),
            rtt: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        }
    }

    pub(crate) fn lane(&self, class: Class) -> &Lane {
        &self.lanes[class.index()]
    }

    /// Works on a stream's queue and keeps the gauge of its bytes.
    pub(crate) fn with<R>(&self, shared: &Shared, class: Class, change: impl FnOnce(&mut Work) -> R) -> R {
        let mut work = lock(&self.lane(class).work);
        let before = work.bytes();
        let result = change(&mut work);
        let after = work.bytes();
        // Wraps around when it shrinks, and so does the sum: what remains is right.
        let gauge = &shared.metrics.class(class).queue_bytes;
        gauge.fetch_add((after as u64).wrapping_sub(before as u64), Ordering::Relaxed);
        result
    }

    pub(crate) fn send(self: &Arc<Self>, shared: &Arc<Shared>, kind: u16, payload: Bytes) -> Result<(), SendError> {
        let max = shared.options.max_frame_bytes;
        let size = payload.len();
        if size > max {
            shared.metrics.count_dropped(DropReason::TooLarge, 1);
            return Err(SendError::TooLarge { size, max });
        }
        self.with(shared, Class::Data, |work| {
            let Work::Outbox(outbox) = work else {
                return Err(SendError::Shutdown);
            };
            if outbox.push(kind, payload) {
                return Ok(());
            }
            shared.metrics.count_dropped(DropReason::QueueFull, 1);
            Err(SendError::QueueFull {
                address: self.address.clone(),
                queued: outbox.bytes(),
                max: shared.options.send_queue_bytes,
            })
        })?;
        self.start(shared, Class::Data);
        self.lane(Class::Data).notify.notify_one();
        Ok(())
    }

    pub(crate) async fn request(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        kind: u16,
        payload: Bytes,
        class: Class,
        deadline: Duration,
    ) -> Result<Bytes, LinkError> {
        let max = shared.options.max_frame_bytes;
        let size = payload.len();
        if size > max {
            shared.metrics.count_dropped(DropReason::TooLarge, 1);
            return Err(LinkError::TooLarge { size, max });
        }
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + deadline;
        let id = self.with(shared, class, |work| match work {
            Work::Requests(requests) => requests.push(kind, payload, until, answer).map_err(|full| {
                shared.metrics.count_dropped(DropReason::QueueFull, 1);
                LinkError::QueueFull {
                    address: self.address.clone(),
                    class: class.name(),
                    queued: full.queued,
                    max: full.max,
                }
            }),
            Work::Outbox(_) => Err(LinkError::WrongClass),
            Work::Closed => Err(LinkError::Shutdown),
        })?;
        let _given_up = GiveUp { peer: self, shared, class, id };
        self.start(shared, class);
        self.lane(class).notify.notify_one();
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(LinkError::Shutdown),
            Err(_) => Err(LinkError::Deadline),
        }
    }

    /// A connection carries the stream from now on: its number, for those that wait for an answer.
    pub(crate) fn numbered(&self, shared: &Shared, class: Class) -> u64 {
        self.with(shared, class, |work| match work {
            Work::Requests(requests) => requests.connected(),
            Work::Outbox(_) | Work::Closed => 0,
        })
    }

    /// Whether answers are to come by a connection.
    pub(crate) fn is_waiting_on(&self, shared: &Shared, class: Class, number: u64) -> bool {
        self.with(shared, class, |work| matches!(work, Work::Requests(requests) if requests.is_waiting_on(number)))
    }

    /// Nothing more comes by a connection: the peer may have done what was asked by it.
    pub(crate) fn fail_written(&self, shared: &Shared, class: Class, number: u64, reason: &str) {
        self.with(shared, class, |work| {
            if let Work::Requests(requests) = work {
                requests.fail_written(number, &LinkError::Disconnected(reason.to_owned()));
            }
        });
    }

    /// The peer cannot be reached.
    pub(crate) fn fail_queued(&self, shared: &Shared, class: Class, error: &LinkError) {
        self.with(shared, class, |work| {
            if let Work::Requests(requests) = work {
                requests.fail_queued(error);
            }
        });
    }

    fn start(self: &Arc<Self>, shared: &Arc<Shared>, class: Class) {
        let lane = self.lane(class);
        if lane.started.load(Ordering::Acquire) || lane.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let run = dial::run(Arc::clone(shared), Arc::clone(self), class);
        let mut task = lock(&lane.task);
        // Closed in between: nobody would end the task.
        if !matches!(*lock(&lane.work), Work::Closed) {
            *task = Some(shared.runtime.spawn(run));
        }
    }

    /// Whether one-way frames wait for a connection that broke, or could not be made.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Notes whether one-way frames get through; `shared` counts the peers for which they do not.
    fn set_lost(&self, shared: &Shared, lost: bool) {
        if self.lost.swap(lost, Ordering::Relaxed) != lost {
            let change = if lost { 1 } else { usize::MAX };
            shared.lost.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Shows each one-way frame that was not acknowledged, and sends what `revise` gives in its place.
    pub(crate) fn revise(&self, shared: &Shared, revise: impl FnMut(u16, &Bytes, bool) -> Option<Bytes>) {
        self.with(shared, Class::Data, |work| {
            if let Work::Outbox(outbox) = work {
                outbox.revise(revise);
            }
        });
    }

    /// Ends all streams; the one-way frames that wait are dropped and counted, and given with whether the peer may have handled them.
    pub(crate) fn close(&self, shared: &Shared) -> (Vec<JoinHandle<()>>, Vec<Undelivered>) {
        let mut tasks = Vec::new();
        let mut undelivered = Vec::new();
        self.set_lost(shared, false);
        for class in Class::ALL {
            self.with(shared, class, |work| {
                match work {
                    Work::Requests(requests) => {
                        requests.fail_all(&LinkError::Shutdown);
                    }
                    Work::Outbox(outbox) => {
                        let (dropped, written) = outbox.clear();
                        shared.metrics.count_dropped(DropReason::Forgotten, dropped.len() as u64);
                        let frames = dropped.into_iter().enumerate();
                        undelivered.extend(frames.map(|(at, (kind, payload))| (kind, payload, at < written)));
                    }
                    Work::Closed => {}
                }
                *work = Work::Closed;
            });
            if let Some(task) = lock(&self.lane(class).task).take() {
                task.abort();
                tasks.push(task);
            }
        }
        (tasks, undelivered)
    }

    pub(crate) fn is_drained(&self) -> bool {
        match &*lock(&self.lane(Class::Data).work) {
            Work::Outbox(outbox) => outbox.is_empty(),
            _ => true,
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let queue_bytes = Class::ALL.iter().map(|class| lock(&self.lane(*class).work).bytes()).sum();
        let rtt = self.rtt.load(Ordering::Relaxed);
        let state = lock(&self.state);
        let error = state.errors.iter().flatten().next().cloned();
        PeerStatus {
            address: self.address.clone(),
            hello: state.hello.clone(),
            connected: state.connected,
            via: state.via.iter().flatten().next().cloned(),
            rtt: (rtt > 0).then(|| Duration::from_micros(rtt)),
            queue_bytes,
            refused: error.as_ref().is_some_and(|(_, refused)| *refused),
            last_error: error.map(|(text, _)| text),
        }
    }

    /// Whether any stream to it is connected, and straight, and gives signs of life.
    pub(crate) fn is_reached(&self) -> bool {
        let state = lock(&self.state);
        (0..4).any(|class| state.connected[class] && state.via[class].is_none() && !state.suspect[class])
    }

    /// Whether a connection gives no sign of life.
    pub(crate) fn set_suspect(&self, class: Class, suspect: bool) {
        lock(&self.state).suspect[class.index()] = suspect;
    }

    /// Whether others are asked for a way to it: more and more rarely where none had one.
    pub(crate) fn may_ask_others(&self) -> bool {
        lock(&self.state).unhelped.is_none_or(|(at, pause)| at.elapsed() >= pause)
    }

    /// Somebody is there who was not.
    pub(crate) fn may_be_helped(&self) {
        lock(&self.state).unhelped = None;
        self.poke();
    }

    /// Others were asked.
    pub(crate) fn helped(&self, helped: bool, pause: Duration) {
        let mut state = lock(&self.state);
        let next = match state.unhelped {
            // Of the streams that asked at once.
            Some((at, before)) if !helped && at.elapsed() < before => return,
            Some((_, before)) => (before * 2).min(pause * 20),
            None => pause,
        };
        state.unhelped = (!helped).then(|| (Instant::now(), next));
    }

    /// A boot was learnt from elsewhere: leave connections to another one.
    pub(crate) fn expect(&self, incarnation: u128, boot: u64) {
        lock(&self.state).expected = Some((incarnation, boot));
        self.poke();
    }

    /// Some peer dialled this node.
    pub(crate) fn seen(&self, hello: &Hello) {
        let mut state = lock(&self.state);
        match &state.hello {
            Some(known) if known.node != hello.node => return,
            Some(known) if !known.same_boot(hello) && !is_over(hello, known) => {
                state.expected = Some((hello.incarnation, hello.boot));
            }
            _ => {}
        }
        // It is there: somebody may reach it.
        state.unhelped = None;
        drop(state);
        self.poke();
    }

    fn poke(&self) {
        for lane in &self.lanes {
            lane.poke.notify_one();
        }
    }

    /// Whether a connection to this boot should be left.
    pub(crate) fn is_obsolete(&self, hello: &Hello) -> bool {
        match lock(&self.state).expected {
            Some((incarnation, boot)) if incarnation == hello.incarnation => boot > hello.boot,
            Some(_) => true,
            None => false,
        }
    }

    /// A connection is there; false when it is to a boot that is over. Who answers counts for more than what was expected, but
    /// for an earlier boot of the same data directory.
    pub(crate) fn connected(&self, shared: &Shared, class: Class, peer: &PeerHello, via: Option<&str>) -> bool {
        let hello = &peer.hello;
        let mut state = lock(&self.state);
        match state.expected {
            Some((incarnation, boot)) if incarnation == hello.incarnation => {
                if boot > hello.boot {
                    return false;
                }
            }
            _ => state.expected = None,
        }
        let newer = matches!(&state.hello, Some(known) if is_over(known, hello));
        if newer {
            // The other streams may hang on connections to the boot that is over.
            state.expected = Some((hello.incarnation, hello.boot));
        }
        let first = !state.connected.contains(&true);
        let relayed = state.via.iter().any(Option::is_some);
        state.via[class.index()] = via.map(str::to_owned);
        state.connected[class.index()] = true;
        state.suspect[class.index()] = false;
        state.unhelped = None;
        let now = state.via.iter().any(Option::is_some);
        match via {
            Some(via) if !relayed => {
                warn!(address = self.address, node = hello.node, by = via, "a peer is reached by another node only");
            }
            None if relayed && !now => {
                info!(address = self.address, node = hello.node, "a peer is reached straight again");
            }
            _ if first => {
                info!(address = self.address, node = hello.node, remote = %peer.remote, "connected to a peer");
            }
            _ => {}
        }
        state.errors[class.index()] = None;
        state.hello = Some(hello.clone());
        drop(state);
        if class == Class::Data {
            self.set_lost(shared, false);
        }
        if newer {
            self.poke();
        }
        true
    }

    pub(crate) fn renewed(&self, hello: &Hello) {
        lock(&self.state).hello = Some(hello.clone());
    }

    /// A stream is not connected, and why.
    pub(crate) fn failed(&self, shared: &Shared, class: Class, reason: String, refused: bool) {
        // Closed meanwhile: its work is not counted any more.
        if class == Class::Data && !matches!(*lock(&self.lane(class).work), Work::Closed) {
            self.set_lost(shared, true);
        }
        let mut state = lock(&self.state);
        state.connected[class.index()] = false;
        state.via[class.index()] = None;
        let error = Some((reason, refused));
        let known = state.errors.contains(&error);
        if !known && let Some((reason, _)) = &error {
            warn!(address = self.address, class = class.name(), reason, refused, "not connected to a peer");
        }
        state.errors[class.index()] = error;
    }

    pub(crate) fn measured(&self, sample: Duration) {
        let sample = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.rtt.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        self.rtt.store(new.max(1), Ordering::Relaxed);
    }
}

/// Whether `boot` is an earlier start of the same data directory.
fn is_over(boot: &Hello, known: &Hello) -> bool {
    boot.incarnation == known.incarnation && boot.boot < known.boot
}

/// The caller's end of a request: without it, the queue and the table of those who wait would keep it.
struct GiveUp<'a> {
    peer: &'a Peer,
    shared: &'a Shared,
    class: Class,
    id: u64,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.peer.with(self.shared, self.class, |work| {
            if let Work::Requests(requests) = work {
                requests.give_up(self.id);
            }
        });
    }
}
