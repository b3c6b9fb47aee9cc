//! One stream to a peer: dial, run, and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::converse::{self, End, LEFT};
use crate::error::LinkError;
use crate::handshake::{self, HandshakeError, Known};
use crate::metrics::DropReason;
use crate::options::Class;
use crate::outbox::{Frames, Opened, Outbox};
use crate::path::Path;
use crate::peer::{Peer, Work};
use crate::pki::NODE_DOMAIN;
use crate::relay;
use crate::shared::Shared;
use crate::socket;

/// Results of a resolver that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long a dial is tried before others are asked for a way to the peer: as long as a machine that has much to do may take.
const HEAD_START: Duration = Duration::from_secs(1);
/// The same where the peer did not answer on a connection.
const HEAD_START_OF_SUSPECT: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) enum DialError {
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

pub(crate) type Stream = TlsStream<Path>;

/// A connection on which both have said who they are, and nothing else yet.
pub(crate) struct Greeted {
    pub(crate) stream: Stream,
    pub(crate) known: Known,
    /// By which node, where it is not straight.
    pub(crate) via: Option<String>,
}

/// Runs until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, class: Class) {
    let options = &shared.options;
    let mut pause = options.backoff_min;
    let mut had_connection = false;
    let mut better = None;
    let mut remains = None;
    let mut trust = Trust::default();
    loop {
        let greeted = match better.take() {
            Some(greeted) => Ok(greeted),
            None => {
                // Who was not there may just be starting.
                let failing = pause > options.backoff_min * 2;
                dial(&shared, &peer, class, trust.order(failing)).await
            }
        };
        let ready = match greeted {
            Ok(greeted) => take_up(&shared, &peer, class, greeted).await,
            Err(error) => Err(error),
        };
        match ready {
            Ok(greeted) => {
                if std::mem::replace(&mut had_connection, true) {
                    let reconnects = &shared.metrics.class(class).reconnects;
                    reconnects.fetch_add(1, Ordering::Relaxed);
                }
                let number = peer.numbered(&shared, class);
                let (begun, straight) = (Instant::now(), greeted.via.is_none());
                match converse::converse(&shared, &peer, class, greeted, number, trust, remains.take()).await {
                    End::Broken { reason, progressed } => {
                        if progressed {
                            pause = options.backoff_min;
                        }
                        peer.failed(&shared, class, reason.clone(), false);
                        peer.fail_written(&shared, class, number, &reason);
                    }
                    End::Better(found) => {
                        if found.remains.is_none() {
                            peer.fail_written(&shared, class, number, LEFT);
                        }
                        // That no other straight one can be made is no reason not to rely on them.
                        if found.suspect && straight && (found.greeted.via.is_none() || trust.is_low()) {
                            trust.fell_silent(begun.elapsed(), options.dead_after);
                        }
                        // One that greets straight and then says no more, again and again, is not reached so.
                        let same = found.suspect && trust.is_low() && found.greeted.via.is_none();
                        if !same && (found.heard || !found.suspect) {
                            (better, remains) = (Some(found.greeted), found.remains);
                            continue;
                        }
                        peer.failed(&shared, class, "it greets and then says no more".to_owned(), false);
                    }
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
                peer.fail_queued(&shared, class, &error);
                // Nobody looks any more after what was to come by the connection before.
                if remains.take().is_some() {
                    peer.fail_written(&shared, class, u64::MAX, LEFT);
                }
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

/// How far a straight connection is relied on: large packets may get lost on it while small ones, and so all greetings, come through.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Trust {
    /// How often in a row it fell silent soon after it was made.
    silences: u32,
}

/// Which way is tried first.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// The straight one. Others are asked when that takes longer than its head start and, if `at_once`, when it fails before.
    Straight { head_start: Duration, at_once: bool },
    /// By way of others.
    Others,
}

impl Trust {
    /// A straight connection was left since nothing came by it.
    fn fell_silent(&mut self, lived: Duration, dead_after: Duration) {
        let soon = lived < dead_after * 6;
        self.silences = if soon { (self.silences + 1).min(5) } else { 0 };
    }

    pub(crate) fn is_low(self) -> bool {
        self.silences > 0
    }

    /// For a dial; whether others before it failed.
    fn order(self, failing: bool) -> Order {
        let head_start = if failing { HEAD_START_OF_SUSPECT } else { HEAD_START };
        if self.is_low() { Order::Others } else { Order::Straight { head_start, at_once: failing } }
    }

    /// For a dial while a connection is silent.
    pub(crate) fn order_of_suspect(self) -> Order {
        let straight = Order::Straight { head_start: HEAD_START_OF_SUSPECT, at_once: true };
        if self.is_low() { Order::Others } else { straight }
    }

    /// How long a way by another node is gone before a straight one is tried.
    pub(crate) fn straight_after(self, dead_after: Duration) -> Duration {
        dead_after * 2 * (1 << self.silences)
    }
}

/// Straight to the peer or by way of another one. A refusal is an answer: no other way would bring a better one.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    order: Order,
) -> Result<Greeted, DialError> {
    let (head_start, at_once) = match order {
        Order::Straight { head_start, at_once } => (head_start, at_once),
        Order::Others => {
            if let Some(greeted) = relayed(shared, peer, class).await {
                return Ok(greeted);
            }
            return straight(shared, peer, class).await;
        }
    };
    let straight = straight(shared, peer, class);
    tokio::pin!(straight);
    match tokio::time::timeout(head_start, &mut straight).await {
        Ok(Err(DialError::Unreachable(reason))) if at_once => {
            return relayed(shared, peer, class).await.ok_or(DialError::Unreachable(reason));
        }
        Ok(dialled) => return dialled,
        Err(_) => {}
    }
    // While nothing answers, somebody may come who reaches it.
    let relayed = async {
        loop {
            if let Some(greeted) = relayed(shared, peer, class).await {
                return greeted;
            }
            tokio::time::sleep(HEAD_START_OF_SUSPECT).await;
        }
    };
    tokio::select! {
        dialled = straight => dialled,
        greeted = relayed => Ok(greeted),
    }
}

/// Straight to the peer, at each of the sockets that its address stands for.
pub(crate) async fn straight(shared: &Arc<Shared>, peer: &Arc<Peer>, class: Class) -> Result<Greeted, DialError> {
    let limit = shared.options.connect_timeout;
    let late = |what: &str| DialError::Unreachable(format!("{what} took longer than {limit:?}"));
    let resolved = tokio::time::timeout(limit, shared.resolver.resolve(&peer.address))
        .await
        .map_err(|_| late("resolving the address"))?
        .map_err(|e| DialError::Unreachable(format!("cannot resolve the address: {e}")))?;
    let mut last = DialError::Unreachable("the address resolves to nothing".to_owned());
    for remote in resolved.into_iter().take(MAX_ADDRESSES) {
        let one = async {
            let unreachable = |e: std::io::Error| DialError::Unreachable(format!("{remote}: {e}"));
            let tcp = socket::connect(remote).await.map_err(unreachable)?;
            let (stream, known) = greet(shared, &peer.address, Path::Direct(tcp), remote, class.index() as u16).await?;
            Ok(Greeted { stream, known, via: None })
        };
        match tokio::time::timeout(limit, one).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            Err(_) => last = late("connecting"),
        }
    }
    Err(last)
}

/// TLS and the Hellos; `kind` says what the connection is for.
async fn greet<P>(
    shared: &Arc<Shared>,
    address: &str,
    path: P,
    remote: SocketAddr,
    kind: u16,
) -> Result<(TlsStream<P>, Known), DialError>
where
    P: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let greeted = async {
        let name = ServerName::try_from(NODE_DOMAIN).expect("a valid DNS name");
        let connector = TlsConnector::from(shared.tls().client);
        let mut stream = connector.connect(name, path).await?;
        let certificate = handshake::certificate_of(stream.get_ref().1)?;
        let known = handshake::greet(&mut stream, certificate, shared, address, remote, kind).await?;
        Ok((stream, known))
    };
    Ok(greeted.await.inspect_err(|error| handshake::count_refused(shared, error))?)
}

/// By way of another peer, if one reaches it: the first that has a way.
async fn relayed(shared: &Arc<Shared>, peer: &Arc<Peer>, class: Class) -> Option<Greeted> {
    if !peer.may_ask_others() {
        return None;
    }
    let mut asked: FuturesUnordered<_> = relay::helpers(shared, &peer.address)
        .into_iter()
        .zip(0..)
        .map(|(helper, before)| async move {
            // One may have been cut off just now as well.
            tokio::time::sleep(HEAD_START_OF_SUSPECT * before).await;
            let found = through(shared, peer, class, &helper).await;
            found.inspect_err(|error| debug!(address = peer.address, by = helper.address, ?error, "no way to a peer"))
        })
        .collect();
    let first = async {
        while let Some(found) = asked.next().await {
            if let Ok(greeted) = found {
                return Some(greeted);
            }
        }
        None
    };
    let found = tokio::time::timeout(shared.options.connect_timeout, first).await.ok().flatten();
    peer.helped(found.is_some(), shared.options.backoff_max / 4);
    found
}

async fn through(shared: &Arc<Shared>, peer: &Peer, class: Class, helper: &Peer) -> Result<Greeted, DialError> {
    let resolved = shared.resolver.resolve(&helper.address).await;
    let resolved = resolved.map_err(|e| DialError::Unreachable(format!("cannot resolve the address: {e}")))?;
    let (tcp, remote) = socket::connect_any(resolved, shared.options.connect_timeout)
        .await
        .map_err(|e| DialError::Unreachable(e.to_string()))?;
    let (stream, known) = greet(shared, &helper.address, tcp, remote, relay::KIND).await?;
    let via = known.peer.hello.node.clone();
    let passed_on = Box::new(relay::ask(stream, known, &peer.address).await?);
    let (stream, known) = greet(shared, &peer.address, Path::Relayed(passed_on), remote, class.index() as u16).await?;
    Ok(Greeted { stream, known, via: Some(via) })
}

/// From here on the stream goes by this connection, and by no other.
async fn take_up(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    mut greeted: Greeted,
) -> Result<Greeted, DialError> {
    if !peer.connected(shared, class, &greeted.known.peer, greeted.via.as_deref()) {
        let boot = greeted.known.peer.hello.boot;
        return Err(DialError::Unreachable(format!("boot {boot} of the peer is over")));
    }
    if greeted.via.is_none() {
        // It may reach those that this node does not.
        shared.all_peers().iter().filter(|other| !other.is_reached()).for_each(|other| other.may_be_helped());
    }
    if class == Class::Data {
        let opened = open(shared, peer, &mut greeted.stream, &mut greeted.known);
        let limit = shared.options.connect_timeout;
        tokio::time::timeout(limit, opened)
            .await
            .map_err(|_| DialError::Unreachable(format!("opening the stream took longer than {limit:?}")))??;
    }
    Ok(greeted)
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

/// Works on the one-way frames; an error when the peer was forgotten.
pub(crate) fn with_outbox<R>(
    shared: &Shared,
    peer: &Peer,
    change: impl FnOnce(&mut Outbox) -> R,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_way_that_falls_silent_again_and_again_is_tried_more_and_more_rarely() {
        let (second, dead_after) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut trust = Trust::default();
        assert!(matches!(trust.order(false), Order::Straight { at_once: false, head_start: HEAD_START }));
        assert!(matches!(trust.order(true), Order::Straight { at_once: true, head_start: HEAD_START_OF_SUSPECT }));
        trust.fell_silent(31 * second, dead_after);
        assert!(!trust.is_low() && trust.straight_after(dead_after) == 10 * second);
        for after in [20, 40, 80, 160, 320, 320] {
            trust.fell_silent(second, dead_after);
            assert_eq!(trust.straight_after(dead_after), after * second);
            assert!(matches!((trust.order(false), trust.order_of_suspect()), (Order::Others, Order::Others)));
        }
        trust.fell_silent(31 * second, dead_after);
        assert!(matches!(trust.order_of_suspect(), Order::Straight { at_once: true, .. }));
    }
}
