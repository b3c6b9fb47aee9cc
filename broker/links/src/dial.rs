//! One stream to a peer: dial, run, and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::error::LinkError;
use crate::frame::{FLAG_BUSY, FLAG_ERROR, Frame, FrameType};
use crate::handshake::{self, HandshakeError, Known};
use crate::io::{FrameBuffer, write_loop};
use crate::metrics::DropReason;
use crate::options::Class;
use crate::outbox::{Frames, Opened};
use crate::peer::{Peer, Work};
use crate::pki::NODE_DOMAIN;
use crate::shared::Shared;

/// Results of a resolver that are tried.
const MAX_ADDRESSES: usize = 8;

enum DialError {
    Refused(String),
    Unreachable(String),
}

impl From<HandshakeError> for DialError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => DialError::Unreachable(error.to_string()),
            refused => DialError::Refused(refused.to_string()),
        }
    }
}

type Stream = TlsStream<TcpStream>;

/// Runs until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, class: Class) {
    let options = &shared.options;
    let mut pause = options.backoff_min;
    let mut had_connection = false;
    loop {
        match dial(&shared, &peer, class).await {
            Ok((stream, known)) => {
                if std::mem::replace(&mut had_connection, true) {
                    let reconnects = &shared.metrics.class(class).reconnects;
                    reconnects.fetch_add(1, Ordering::Relaxed);
                }
                let mut progressed = false;
                let reason = converse(&shared, &peer, class, stream, known, &mut progressed).await;
                peer.failed(&shared, class, reason.clone(), false);
                fail(&shared, &peer, class, true, &LinkError::Disconnected(reason));
                if progressed {
                    pause = options.backoff_min;
                }
            }
            Err(error) => {
                let (reason, refused) = match error {
                    DialError::Refused(reason) => (reason, true),
                    DialError::Unreachable(reason) => (reason, false),
                };
                peer.failed(&shared, class, reason.clone(), refused);
                let error = if refused {
                    pause = options.backoff_max;
                    LinkError::Refused(reason)
                } else {
                    LinkError::Unreachable(reason)
                };
                fail(&shared, &peer, class, false, &error);
            }
        }
        let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX).max(2);
        let jittered = Duration::from_nanos(nanos / 2 + shared.random() % (nanos / 2));
        pause = (pause * 2).min(options.backoff_max);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = peer.lane(class).poke.notified() => {}
        }
    }
}

fn fail(shared: &Shared, peer: &Peer, class: Class, written: bool, error: &LinkError) {
    peer.with(shared, class, |work| {
        if let Work::Requests(requests) = work {
            if written {
                requests.fail_written(error);
            } else {
                requests.fail_queued(error);
            }
        }
    });
}

async fn dial(shared: &Arc<Shared>, peer: &Arc<Peer>, class: Class) -> Result<(Stream, Known), DialError> {
    let limit = shared.options.connect_timeout;
    let late = |what: &str| DialError::Unreachable(format!("{what} took longer than {limit:?}"));
    let resolved = tokio::time::timeout(limit, shared.resolver.resolve(&peer.address))
        .await
        .map_err(|_| late("resolving the address"))?
        .map_err(|e| DialError::Unreachable(format!("cannot resolve the address: {e}")))?;
    let mut last = DialError::Unreachable("the address resolves to nothing".to_owned());
    for remote in resolved.into_iter().take(MAX_ADDRESSES) {
        match tokio::time::timeout(limit, dial_one(shared, peer, class, remote)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            Err(_) => last = late("connecting"),
        }
    }
    Err(last)
}

async fn dial_one(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    remote: SocketAddr,
) -> Result<(Stream, Known), DialError> {
    let unreachable = |e: std::io::Error| DialError::Unreachable(format!("{remote}: {e}"));
    let tcp = TcpStream::connect(remote).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let handshake = async {
        let name = ServerName::try_from(NODE_DOMAIN).expect("a valid DNS name");
        let connector = TlsConnector::from(shared.tls().client);
        let mut stream = connector.connect(name, tcp).await?;
        let certificate = handshake::certificate_of(stream.get_ref().1)?;
        let known = handshake::greet(&mut stream, certificate, shared, &peer.address, remote, class).await?;
        Ok((stream, known))
    };
    let (mut stream, mut known) = handshake.await.inspect_err(|error| handshake::count_refused(shared, error))?;
    if !peer.connected(shared, class, &known.peer) {
        let boot = known.peer.hello.boot;
        return Err(DialError::Unreachable(format!("boot {boot} of the peer is over")));
    }
    if class == Class::Data {
        open(shared, peer, &mut stream, &mut known).await?;
    }
    Ok((stream, known))
}

/// Agrees with the peer on where the one-way frames go on.
async fn open(shared: &Shared, peer: &Peer, stream: &mut Stream, known: &mut Known) -> Result<(), DialError> {
    let hello = &known.peer.hello;
    let dropped =
        with_outbox(shared, peer, |outbox| outbox.connected((hello.incarnation, hello.boot), shared.random()))?;
    restarted(shared, peer, dropped);
    loop {
        let (epoch, resumed) = with_outbox(shared, peer, |outbox| outbox.opening())?;
        let last = handshake::open_stream(stream, &mut known.buffer, epoch, resumed).await?;
        let opened = with_outbox(shared, peer, |outbox| outbox.opened(last, shared.random()))?
            .map_err(|e| DialError::Unreachable(e.to_string()))?;
        match opened {
            Opened::Ready => return Ok(()),
            Opened::Again { dropped } => restarted(shared, peer, dropped),
        }
    }
}

fn with_outbox<R>(
    shared: &Shared,
    peer: &Peer,
    change: impl FnOnce(&mut crate::outbox::Outbox) -> R,
) -> Result<R, DialError> {
    peer.with(shared, Class::Data, |work| match work {
        Work::Outbox(outbox) => Ok(change(outbox)),
        _ => Err(DialError::Unreachable("forgotten".to_owned())),
    })
}

fn restarted(shared: &Shared, peer: &Peer, dropped: Frames) {
    if dropped.is_empty() {
        return;
    }
    tracing::warn!(
        address = peer.address,
        dropped = dropped.len(),
        "dropped frames sent to an earlier boot of the peer"
    );
    shared.metrics.count_dropped(DropReason::PeerRestarted, dropped.len() as u64);
    for (kind, payload) in dropped {
        shared.handler.on_undelivered(kind, payload, true);
    }
}

/// What is outstanding on a connection, and since when nothing came.
struct Vigil {
    base: Instant,
    /// Milliseconds since `base` + 1; 0: nothing is outstanding.
    since: AtomicU64,
    /// A ping to be written, and one to be answered: microseconds since the links started; 0: none.
    ping: AtomicU64,
    pinged: AtomicU64,
}

impl Vigil {
    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn written(&self) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The socket took a part of a large frame, on which the peer is silent until it has all of it. (What a dead peer's
    /// socket takes ends with the kernel's buffer.)
    fn progressed(&self) {
        if self.since.load(Ordering::Relaxed) != 0 {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn heard(&self, still_waiting: bool) {
        let waiting = still_waiting || self.pinged.load(Ordering::Relaxed) != 0;
        let since = if waiting { self.now() } else { 0 };
        self.since.store(since, Ordering::Relaxed);
    }

    fn is_dead(&self, after: Duration) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        since != 0 && u128::from(self.now() - since) > after.as_millis()
    }
}

/// Runs a connection; returns why it ended.
async fn converse(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    stream: Stream,
    known: Known,
    progressed: &mut bool,
) -> String {
    let Known { peer: identity, buffer, hello } = known;
    let (reader, writer) = tokio::io::split(stream);
    let lane = peer.lane(class);
    let vigil =
        Vigil { base: Instant::now(), since: AtomicU64::new(0), ping: AtomicU64::new(0), pinged: AtomicU64::new(0) };
    let write = write_loop(
        writer,
        &lane.notify,
        hello,
        shared.metrics.class(class),
        |batch| {
            let ping = vigil.ping.swap(0, Ordering::Relaxed);
            if ping != 0 {
                batch.push(&Frame::new(FrameType::Ping, ping));
            }
            peer.with(shared, class, |work| work.fill(batch));
            if !batch.is_empty() {
                vigil.written();
            }
        },
        || vigil.progressed(),
    );
    let original = Arc::clone(&identity);
    let obsolete = async {
        while !peer.is_obsolete(&original.hello) {
            lane.poke.notified().await;
        }
    };
    let reason = tokio::select! {
        reason = listen(shared, peer, class, reader, buffer, identity, &vigil, progressed) => reason,
        written = write => match written {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        },
        () = watch_over(shared, &lane.notify, &vigil) => {
            format!("nothing heard for {:?}", shared.options.dead_after)
        }
        () = obsolete => "another boot of the peer is known".to_owned(),
    };
    debug!(address = peer.address, class = class.name(), reason, "connection to a peer ended");
    reason
}

async fn watch_over(shared: &Shared, notify: &tokio::sync::Notify, vigil: &Vigil) {
    let dead_after = shared.options.dead_after;
    let ping_interval = shared.options.ping_interval;
    let tick = (dead_after / 5).min(ping_interval);
    let mut next_ping = Instant::now();
    while !vigil.is_dead(dead_after) {
        if Instant::now() >= next_ping && vigil.pinged.load(Ordering::Relaxed) == 0 {
            next_ping = Instant::now() + ping_interval;
            let now = micros(shared.started).max(1);
            vigil.ping.store(now, Ordering::Relaxed);
            vigil.pinged.store(now, Ordering::Relaxed);
            notify.notify_one();
        }
        tokio::time::sleep(tick).await;
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[allow(clippy::too_many_arguments)] // One call site; a struct would name the same things twice.
async fn listen<R: AsyncRead + Unpin>(
    shared: &Shared,
    peer: &Peer,
    class: Class,
    mut io: R,
    mut buffer: FrameBuffer,
    mut identity: Arc<crate::hello::PeerHello>,
    vigil: &Vigil,
    progressed: &mut bool,
) -> String {
    let metrics = shared.metrics.class(class);
    loop {
        loop {
            let frame = match buffer.pop() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return error.to_string(),
            };
            *progressed = true;
            match frame.frame_type {
                FrameType::Answer => {
                    metrics.frames_in.fetch_add(1, Ordering::Relaxed);
                    let result = match frame.flags {
                        0 => Ok(frame.payload),
                        flags if flags & FLAG_BUSY != 0 => Err(LinkError::Busy),
                        _ => {
                            debug_assert_eq!(frame.flags, FLAG_ERROR);
                            let text = String::from_utf8_lossy(&frame.payload).into_owned();
                            Err(LinkError::Remote(text))
                        }
                    };
                    peer.with(shared, class, |work| {
                        if let Work::Requests(requests) = work {
                            requests.answer(frame.id, result);
                        }
                    });
                }
                FrameType::Ack => {
                    let taken = with_outbox(shared, peer, |outbox| outbox.acknowledged(frame.id));
                    match taken {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "forgotten".to_owned(),
                    }
                }
                FrameType::Pong => {
                    if vigil.pinged.swap(0, Ordering::Relaxed) == frame.id {
                        let took = micros(shared.started).saturating_sub(frame.id);
                        peer.measured(Duration::from_micros(took));
                    }
                }
                FrameType::Hello => match handshake::renew(shared, &identity, &frame) {
                    Ok(renewed) => {
                        identity = renewed;
                        peer.renewed(&identity.hello);
                    }
                    Err(error) => return error.to_string(),
                },
                other => return format!("unexpected {other:?} from the peer"),
            }
        }
        vigil.heard(peer.with(shared, class, |work| work.is_waiting()));
        match buffer.fill(&mut io).await {
            Ok(read) => {
                metrics.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
            }
            Err(error) => return error.to_string(),
        }
    }
}
