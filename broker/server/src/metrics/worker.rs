//! What a worker counts.
//!
//! One worker writes, anybody reads: a counter is an atomic that only its owner changes, by a plain load and a plain store,
//! without the locked instruction that an increment by several writers needs. That there is one writer is
//! kept by the type: [`WorkerCounters`] can be sent to the worker's thread but not shared.

mod end;
mod sys;
mod throttle;

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use raftmq_mqtt::PacketType;
use raftmq_session::Limit;

use super::Encoder;
use super::catalog as c;
pub use end::EndReason;
pub(super) use sys::sys;
pub use throttle::Throttle;

/// The QoS of a PUBLISH, as an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PublishQos {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

const QOS: [&str; 3] = ["0", "1", "2"];

/// Why a message was not delivered to somebody who had subscribed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The client reads too slowly: its queue was full (QoS 0 only).
    SlowConsumer,
    /// Its session's queue of messages in flight was full.
    SessionQueueFull,
    /// The queue to another worker of this node was full.
    WorkerQueueFull,
    /// The queue to another node was full.
    LinkQueueFull,
    /// It expired before it could be delivered.
    Expired,
    /// It is larger than the client accepts.
    PacketTooLarge,
    /// The client was gone before the message reached it.
    Disconnected,
    /// This node held no serving lease.
    NotServing,
    /// No member of the group could take it.
    NoMember,
    /// The node had too much to do (QoS 0 only): counted once for a message, whoever had subscribed.
    Overload,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::SlowConsumer,
        Self::SessionQueueFull,
        Self::WorkerQueueFull,
        Self::LinkQueueFull,
        Self::Expired,
        Self::PacketTooLarge,
        Self::Disconnected,
        Self::NotServing,
        Self::NoMember,
        Self::Overload,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::SessionQueueFull => "session_queue_full",
            Self::WorkerQueueFull => "worker_queue_full",
            Self::LinkQueueFull => "link_queue_full",
            Self::Expired => "expired",
            Self::PacketTooLarge => "packet_too_large",
            Self::Disconnected => "disconnected",
            Self::NotServing => "not_serving",
            Self::NoMember => "no_member",
            Self::Overload => "overload",
        }
    }
}

/// Why a message was not taken from its publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRefusal {
    /// Its topic: what a rule makes of it is none, or the delay in it is wrong.
    Topic,
    /// Clients may not publish to it.
    NotAuthorized,
    /// Too much is retained or waits for its time already.
    Quota,
}

impl PublishRefusal {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Topic, Self::NotAuthorized, Self::Quota];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::NotAuthorized => "not_authorized",
            Self::Quota => "quota",
        }
    }
}

/// What is counted and needs no label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Routed,
    Unmatched,
    Retained,
    Unsubscribed,
    Forwarded,
    SharedDispatched,
    SharedRedispatched,
    WillPublished,
    ClientConnected,
    ClientDisconnected,
    SessionCreated,
    SessionResumed,
    SessionTakenOver,
    SessionDiscarded,
    SessionEnded,
    SessionExpired,
    SubscribeRefused,
    NotLocal,
    /// The last ones go down as well.
    Subscribers,
    WillsWaiting,
    Stored,
}

const COUNTS: usize = Count::Stored as usize + 1;

/// Why a connection ended before its CONNECT was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefuseReason {
    /// User name and password, or a certificate, were not accepted.
    Authentication,
    /// The client may not do this.
    NotAuthorized,
    /// What came was not a valid CONNECT.
    Protocol,
    /// No CONNECT came in time.
    Timeout,
    /// Too many connections.
    Limit,
    /// This node held no serving lease.
    NotServing,
    /// The PROXY header in front was missing or wrong.
    ProxyHeader,
    /// The TLS handshake failed.
    TlsHandshake,
    /// What came on a WebSocket listener was no request for MQTT, or its frames were wrong.
    WebsocketUpgrade,
    /// The client, its user name or its address is banned.
    Banned,
    /// The node had too much to do.
    Overload,
}

impl RefuseReason {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::Authentication,
        Self::NotAuthorized,
        Self::Protocol,
        Self::Timeout,
        Self::Limit,
        Self::NotServing,
        Self::ProxyHeader,
        Self::TlsHandshake,
        Self::WebsocketUpgrade,
        Self::Banned,
        Self::Overload,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::NotAuthorized => "not_authorized",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::NotServing => "not_serving",
            Self::ProxyHeader => "proxy_header",
            Self::TlsHandshake => "tls_handshake",
            Self::WebsocketUpgrade => "websocket_upgrade",
            Self::Banned => "banned",
            Self::Overload => "overload",
        }
    }
}

/// Upper bounds of the histogram of a loop's delays, in seconds.
const LATE_BUCKETS: [f64; 7] = [0.002, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The numbers of one worker. Aligned so that no two workers write to one pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Shared {
    started: Instant,
    /// Milliseconds after `started` of the last sign of life.
    beat: AtomicU64,
    /// Milliseconds by which it was late.
    late: AtomicU64,
    /// How often it was so late, by [`LATE_BUCKETS`], and microseconds of all.
    delays: [AtomicU64; LATE_BUCKETS.len() + 1],
    late_sum: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    clients: AtomicU64,
    refused: [AtomicU64; RefuseReason::ALL.len()],
    ended: [AtomicU64; EndReason::ALL.len()],
    protocol_errors: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    messages_in: [AtomicU64; 3],
    message_bytes_in: [AtomicU64; 3],
    messages_out: [AtomicU64; 3],
    message_bytes_out: [AtomicU64; 3],
    dropped: [AtomicU64; DropReason::ALL.len()],
    subscriptions: AtomicU64,
    subscribed: AtomicU64,
    unsubscribed: AtomicU64,
    publish_refused: [AtomicU64; PublishRefusal::ALL.len()],
    limits_met: [AtomicU64; Limit::ALL.len()],
    throttled: [AtomicU64; Throttle::ALL.len()],
    throttled_ms: [AtomicU64; Throttle::ALL.len()],
    /// How many are now.
    throttled_now: AtomicU64,
    counts: [AtomicU64; COUNTS],
    /// By type.
    packets_in: [AtomicU64; 16],
    packets_out: [AtomicU64; 16],
}

impl Shared {
    pub(super) fn new(started: Instant) -> Self {
        let zero = || AtomicU64::new(0);
        let shared = Self {
            started,
            beat: zero(),
            late: zero(),
            delays: std::array::from_fn(|_| zero()),
            late_sum: zero(),
            opened: zero(),
            closed: zero(),
            clients: zero(),
            refused: std::array::from_fn(|_| zero()),
            ended: std::array::from_fn(|_| zero()),
            protocol_errors: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
            messages_in: std::array::from_fn(|_| zero()),
            message_bytes_in: std::array::from_fn(|_| zero()),
            messages_out: std::array::from_fn(|_| zero()),
            message_bytes_out: std::array::from_fn(|_| zero()),
            dropped: std::array::from_fn(|_| zero()),
            subscriptions: zero(),
            subscribed: zero(),
            unsubscribed: zero(),
            publish_refused: std::array::from_fn(|_| zero()),
            limits_met: std::array::from_fn(|_| zero()),
            throttled: std::array::from_fn(|_| zero()),
            throttled_ms: std::array::from_fn(|_| zero()),
            throttled_now: zero(),
            counts: std::array::from_fn(|_| zero()),
            packets_in: std::array::from_fn(|_| zero()),
            packets_out: std::array::from_fn(|_| zero()),
        };
        // A worker that is about to start counts as alive.
        shared.beat_now();
        shared
    }

    fn beat_now(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Relaxed);
    }

    /// By how much its loop is late: as at its last sign of life, or more when the next is overdue.
    pub(super) fn late(&self, now: Duration, period: Duration) -> Duration {
        let last = Duration::from_millis(self.late.load(Relaxed));
        last.max(self.silent_for(now).saturating_sub(period))
    }

    pub(super) fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.beat.load(Relaxed)))
    }
}

/// The writing end, owned by one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    shared: Arc<Shared>,
    /// Not shareable: see the module's text.
    one_writer: PhantomData<Cell<()>>,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(number), Relaxed);
}

fn subtract(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Relaxed).saturating_sub(number), Relaxed);
}

impl WorkerCounters {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, one_writer: PhantomData }
    }

    /// The worker's loop turns, late by so much. To be called at each of its ticks, also when there is nothing to do.
    pub fn beat(&self, late: Duration) {
        self.shared.late.store(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Relaxed);
        let seconds = late.as_secs_f64();
        let bucket = LATE_BUCKETS.iter().take_while(|bound| seconds > **bound).count();
        add(&self.shared.delays[bucket], 1);
        add(&self.shared.late_sum, u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
        self.shared.beat_now();
    }

    /// A socket was accepted.
    pub fn connection_opened(&self) {
        add(&self.shared.opened, 1);
    }

    /// A socket was closed, whatever became of it before.
    pub fn connection_closed(&self) {
        add(&self.shared.closed, 1);
    }

    /// A CONNECT was accepted.
    pub fn client_connected(&self) {
        add(&self.shared.clients, 1);
        self.count(Count::ClientConnected, 1);
    }

    /// A client whose CONNECT had been accepted is gone.
    pub fn client_disconnected(&self, reason: EndReason) {
        subtract(&self.shared.clients, 1);
        add(&self.shared.ended[reason as usize], 1);
        self.count(Count::ClientDisconnected, 1);
    }

    /// A connection ended before its CONNECT was accepted.
    pub fn refused(&self, reason: RefuseReason) {
        add(&self.shared.refused[reason as usize], 1);
    }

    /// A client has met a limit, and was refused what it asked for.
    pub fn limit_met(&self, limit: Limit) {
        add(&self.shared.limits_met[limit as usize], 1);
    }

    /// A connection is not read from now on, because of this rate.
    pub fn throttled(&self, throttle: Throttle) {
        add(&self.shared.throttled[throttle as usize], 1);
        add(&self.shared.throttled_now, 1);
    }

    /// It is read again, after so many milliseconds, or gone.
    pub fn throttled_no_more(&self, throttle: Throttle, waited_ms: u64) {
        add(&self.shared.throttled_ms[throttle as usize], waited_ms);
        subtract(&self.shared.throttled_now, 1);
    }

    /// A connected client broke the protocol and was disconnected.
    pub fn protocol_error(&self) {
        add(&self.shared.protocol_errors, 1);
    }

    /// Bytes were read from sockets of clients.
    pub fn bytes_in(&self, bytes: usize) {
        add(&self.shared.bytes_in, bytes as u64);
    }

    /// Bytes were written to sockets of clients.
    pub fn bytes_out(&self, bytes: usize) {
        add(&self.shared.bytes_out, bytes as u64);
    }

    /// A PUBLISH of so many bytes (the whole packet) came from a client.
    pub fn message_in(&self, qos: PublishQos, bytes: usize) {
        add(&self.shared.messages_in[qos as usize], 1);
        add(&self.shared.message_bytes_in[qos as usize], bytes as u64);
    }

    /// PUBLISH packets went to clients: so many, of so many bytes in all.
    pub fn messages_out(&self, qos: PublishQos, messages: u64, bytes: usize) {
        add(&self.shared.messages_out[qos as usize], messages);
        add(&self.shared.message_bytes_out[qos as usize], bytes as u64);
    }

    /// Deliveries that did not happen.
    pub fn dropped(&self, reason: DropReason, messages: u64) {
        add(&self.shared.dropped[reason as usize], messages);
    }

    /// Subscriptions were added (not those that replaced one).
    pub fn subscribed(&self, subscriptions: u64) {
        add(&self.shared.subscriptions, subscriptions);
        add(&self.shared.subscribed, subscriptions);
    }

    /// Subscriptions were removed, by UNSUBSCRIBE or the end of their session.
    pub fn unsubscribed(&self, subscriptions: u64) {
        subtract(&self.shared.subscriptions, subscriptions);
        add(&self.shared.unsubscribed, subscriptions);
    }

    fn count(&self, what: Count, number: u64) {
        add(&self.shared.counts[what as usize], number);
    }

    /// A message was not taken from its publisher.
    pub fn publish_refused(&self, reason: PublishRefusal) {
        add(&self.shared.publish_refused[reason as usize], 1);
    }

    /// A packet came from a client.
    pub fn packet_in(&self, packet: PacketType) {
        add(&self.shared.packets_in[packet as usize], 1);
    }

    /// A packet goes to a client.
    pub fn packet_out(&self, packet: PacketType) {
        add(&self.shared.packets_out[packet as usize], 1);
    }

    /// Clients ended so many subscriptions themselves.
    pub fn unsubscribed_by_client(&self, filters: u64) {
        self.count(Count::Unsubscribed, filters);
    }

    /// A message, none of the node's own, was kept for later subscribers.
    pub fn retained(&self) {
        self.count(Count::Retained, 1);
    }

    /// A message, none of the node's own, was handed to the routes; somebody had subscribed to it or not.
    pub fn routed(&self, matched: bool) {
        self.count(Count::Routed, 1);
        self.count(Count::Unmatched, u64::from(!matched));
    }

    /// Messages were handed to links: one for each node.
    pub fn forwarded(&self, messages: u64) {
        self.count(Count::Forwarded, messages);
    }

    /// A member of a group was chosen for a message.
    pub fn shared_dispatched(&self) {
        self.count(Count::SharedDispatched, 1);
    }

    /// Another member of a group is looked for, because the one before did not take the message or has left.
    pub fn shared_redispatched(&self) {
        self.count(Count::SharedRedispatched, 1);
    }

    /// A will was published.
    pub fn will_published(&self) {
        self.count(Count::WillPublished, 1);
    }

    /// A session was made.
    pub fn session_created(&self) {
        self.count(Count::SessionCreated, 1);
    }

    /// A session goes on with a new connection.
    pub fn session_resumed(&self) {
        self.count(Count::SessionResumed, 1);
    }

    /// A session goes on with a new connection that closed another one.
    pub fn session_taken_over(&self) {
        self.count(Count::SessionTakenOver, 1);
    }

    /// A session was discarded by a clean start.
    pub fn session_discarded(&self) {
        self.count(Count::SessionDiscarded, 1);
    }

    /// A session ended, however.
    pub fn session_ended(&self) {
        self.count(Count::SessionEnded, 1);
    }

    /// A session expired.
    pub fn session_expired(&self) {
        self.count(Count::SessionExpired, 1);
    }

    /// Filters of a SUBSCRIBE were refused.
    pub fn subscribe_refused(&self, filters: u64) {
        self.count(Count::SubscribeRefused, filters);
    }

    /// A delivery did not happen because the client published the message itself and does not want that.
    pub fn not_local(&self) {
        self.count(Count::NotLocal, 1);
    }

    /// A session has its first subscription.
    pub fn subscriber_added(&self) {
        self.count(Count::Subscribers, 1);
    }

    /// A session has no subscription any more.
    pub fn subscriber_removed(&self) {
        subtract(&self.shared.counts[Count::Subscribers as usize], 1);
    }

    /// So many wills wait for their delay.
    pub fn wills_waiting(&self, wills: u64) {
        self.shared.counts[Count::WillsWaiting as usize].store(wills, Relaxed);
    }

    /// So many messages are in sessions.
    pub fn stored(&self, messages: u64) {
        self.shared.counts[Count::Stored as usize].store(messages, Relaxed);
    }
}

/// Wills that wait, over all workers.
pub(super) fn wills_waiting(workers: &[Arc<Shared>]) -> u64 {
    workers.iter().map(|worker| worker.counts[Count::WillsWaiting as usize].load(Relaxed)).sum()
}

/// The sums over all workers, with the messages that were shed before one got them; and each worker's own.
pub(super) fn collect(workers: &[Arc<Shared>], forwarded_shed: u64, out: &mut Encoder) {
    let sum =
        |field: fn(&Shared) -> &AtomicU64| -> u64 { workers.iter().map(|worker| field(worker).load(Relaxed)).sum() };
    // Closed first: a connection that closes in between must not make the difference negative.
    let closed = sum(|worker| &worker.closed);
    let opened = sum(|worker| &worker.opened);
    out.gauge(&c::WORKERS, &[], workers.len() as u64);
    out.gauge(&c::CONNECTIONS, &[], opened.saturating_sub(closed));
    out.counter(&c::CONNECTIONS_OPENED, &[], opened);
    out.gauge(&c::CLIENTS, &[], sum(|worker| &worker.clients));
    out.counter(&c::PROTOCOL_ERRORS, &[], sum(|worker| &worker.protocol_errors));
    out.counter(&c::CLIENT_RECEIVED_BYTES, &[], sum(|worker| &worker.bytes_in));
    out.counter(&c::CLIENT_SENT_BYTES, &[], sum(|worker| &worker.bytes_out));
    out.gauge(&c::SUBSCRIPTIONS, &[], sum(|worker| &worker.subscriptions));
    out.counter(&c::SUBSCRIBED, &[], sum(|worker| &worker.subscribed));
    out.counter(&c::UNSUBSCRIBED, &[], sum(|worker| &worker.unsubscribed));

    let each = |at: usize, field: fn(&Shared) -> &[AtomicU64]| -> u64 {
        workers.iter().map(|worker| field(worker)[at].load(Relaxed)).sum()
    };
    for (at, qos) in QOS.iter().enumerate() {
        let label = &[*qos];
        out.counter(&c::MESSAGES_RECEIVED, label, each(at, |worker| &worker.messages_in));
        out.counter(&c::MESSAGES_RECEIVED_BYTES, label, each(at, |worker| &worker.message_bytes_in));
        out.counter(&c::MESSAGES_SENT, label, each(at, |worker| &worker.messages_out));
        out.counter(&c::MESSAGES_SENT_BYTES, label, each(at, |worker| &worker.message_bytes_out));
    }
    for (at, reason) in DropReason::ALL.iter().enumerate() {
        let elsewhere = if *reason == DropReason::Overload { forwarded_shed } else { 0 };
        out.counter(&c::MESSAGES_DROPPED, &[reason.name()], each(at, |worker| &worker.dropped) + elsewhere);
    }
    for (at, reason) in PublishRefusal::ALL.iter().enumerate() {
        out.counter(&c::MESSAGES_REFUSED, &[reason.name()], each(at, |worker| &worker.publish_refused));
    }
    for (at, limit) in Limit::ALL.iter().enumerate() {
        out.counter(&c::LIMITS_MET, &[limit.name()], each(at, |worker| &worker.limits_met));
    }
    for (at, throttle) in Throttle::ALL.iter().enumerate() {
        let labels = &[throttle.limit(), throttle.scope()];
        out.counter(&c::THROTTLED, labels, each(at, |worker| &worker.throttled));
        let seconds = each(at, |worker| &worker.throttled_ms) as f64 / 1_000.0;
        out.counter_f64(&c::THROTTLED_SECONDS, labels, seconds);
    }
    out.gauge(&c::THROTTLED_CONNECTIONS, &[], sum(|worker| &worker.throttled_now));
    let counted = |what: Count| each(what as usize, |worker| &worker.counts);
    out.counter(&c::MESSAGES_UNMATCHED, &[], counted(Count::Unmatched));
    out.counter(&c::SHARED_DISPATCHES, &[], counted(Count::SharedDispatched));
    out.counter(&c::SHARED_REDISPATCHES, &[], counted(Count::SharedRedispatched));
    out.counter(&c::WILLS_PUBLISHED, &[], counted(Count::WillPublished));
    out.gauge(&c::WILLS_WAITING, &[], counted(Count::WillsWaiting));
    for (number, worker) in workers.iter().enumerate() {
        let counts: Vec<u64> = worker.delays.iter().map(|count| count.load(Relaxed)).collect();
        let seconds = worker.late_sum.load(Relaxed) as f64 / 1e6;
        out.histogram(&c::WORKER_LOOP_DELAY, &[&number.to_string()], &LATE_BUCKETS, &counts, seconds);
    }
    for (at, reason) in EndReason::ALL.iter().enumerate() {
        out.counter(&c::DISCONNECTED, &[reason.name()], each(at, |worker| &worker.ended));
    }
    for (at, reason) in RefuseReason::ALL.iter().enumerate() {
        out.counter(&c::CONNECTIONS_REFUSED, &[reason.name()], each(at, |worker| &worker.refused));
    }
}
