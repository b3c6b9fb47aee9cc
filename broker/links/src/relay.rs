//! A connection between two nodes that do not reach each other, by way of a third one that both reach.
//!
//! Who asks connects to the third node as to any peer, with [`KIND`] instead of a class in its Hello, and names the address in a `Relay` frame. After
//! `Accepted` the third node passes bytes on as they are. Those two have their own TLS and their Hellos over it: it cannot read, change or make up
//! anything, and who is asked sees a connection as any other. It passes on to peers only to which it has a straight connection that it dialled itself: one
//! hop, and no way to anywhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client;

use crate::frame::{Frame, FrameType};
use crate::handshake::{self, HandshakeError, Known};
use crate::hello::Refusal;
use crate::io::write_frame;
use crate::peer::Peer;
use crate::shared::Shared;
use crate::socket::connect_any;

/// Instead of the number of a class.
pub(crate) const KIND: u16 = 16;

/// Connections that are passed on at once, of all nodes together.
const MOST: usize = 256;

/// What is read of one side before it is written to the other.
const BUFFER_BYTES: usize = 16 << 10;

/// Asks the node at the other end of `stream`, which has greeted, for a connection to an address.
pub(crate) async fn ask(
    mut stream: client::TlsStream<TcpStream>,
    mut known: Known,
    address: &str,
) -> Result<client::TlsStream<TcpStream>, HandshakeError> {
    write_frame(&mut stream, &Frame::new(FrameType::Relay, 0).with_payload(address.as_bytes().to_vec())).await?;
    let answer = known.buffer.next(&mut stream).await?;
    match answer.frame_type {
        // The peer speaks only when it was spoken to: what came with this would be nobody's.
        FrameType::Accepted if known.buffer.is_empty() => Ok(stream),
        FrameType::Refused => Err(handshake::refused_there(&answer)),
        other => Err(handshake::unexpected(other)),
    }
}

/// The node in between: until either side ends. Returns why it ended.
pub(crate) async fn serve<S>(shared: &Arc<Shared>, mut stream: S, mut known: Known) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = shared.options.connect_timeout;
    let asked = tokio::time::timeout(limit, known.buffer.next(&mut stream)).await;
    let Ok(Ok(asked)) = asked else { return "it did not say where to".to_owned() };
    let _held;
    let target = match target(shared, &asked).await {
        Ok((target, held)) => {
            _held = held;
            target
        }
        Err(refusal) => return handshake::refuse(&mut stream, refusal).await.to_string(),
    };
    if let Err(error) = write_frame(&mut stream, &Frame::new(FrameType::Accepted, 0)).await {
        return error.to_string();
    }
    let (from, to) = (&known.peer.hello.node, String::from_utf8_lossy(&asked.payload));
    tracing::info!(from, to = to.as_ref(), "passes on a connection between nodes that do not reach each other");
    // Who dialled pings, so something is always passed on.
    let patience = shared.options.silence();
    let (near_reads, near_writes) = tokio::io::split(stream);
    let (far_reads, far_writes) = target.into_split();
    let last = Last { since: Instant::now(), at: AtomicU64::new(0) };
    tokio::select! {
        reason = pass(near_reads, far_writes, &last) => reason,
        reason = pass(far_reads, near_writes, &last) => reason,
        () = last.long_ago(patience) => format!("nothing passed on for {patience:?}"),
    }
}

/// One of the connections that are passed on.
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.metrics.relayed.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn target(shared: &Arc<Shared>, asked: &Frame) -> Result<(TcpStream, Held), Refusal> {
    let refuse = |reason: String| Refusal::protocol(reason);
    if asked.frame_type != FrameType::Relay {
        return Err(refuse(format!("unexpected {:?} where to relay was to be said", asked.frame_type)));
    }
    let address = std::str::from_utf8(&asked.payload).map_err(|_| refuse("an address is not UTF-8".to_owned()))?;
    let node = shared.hello.borrow().node.clone();
    // No way to anywhere but a peer, and to none that is as cut off from here, as far as is known yet.
    if !shared.peer(address).is_some_and(|peer| peer.is_reached()) {
        return Err(refuse(format!("{node} does not reach that peer either")));
    }
    let before = shared.metrics.relayed.fetch_add(1, Ordering::Relaxed);
    let held = Held(Arc::clone(shared));
    if before >= MOST as u64 {
        return Err(refuse(format!("{node} passes on {MOST} connections already")));
    }
    // It is connected: another connection takes no longer than that one did.
    let limit = shared.options.connect_timeout / 2;
    let connect = async { connect_any(shared.resolver.resolve(address).await?, limit).await };
    match tokio::time::timeout(limit, connect).await {
        Ok(Ok((stream, _))) => Ok((stream, held)),
        Ok(Err(error)) => Err(refuse(format!("{node} cannot connect to it: {error}"))),
        Err(_) => Err(refuse(format!("{node} cannot connect to it in time"))),
    }
}

async fn pass<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(mut from: R, mut to: W, last: &Last) -> String {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) => return "closed".to_owned(),
            Ok(read) => read,
            Err(error) => return error.to_string(),
        };
        last.now();
        let write = async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        };
        if let Err(error) = write.await {
            return error.to_string();
        }
        last.now();
    }
}

/// When something was last passed on, in either direction: while a large frame goes one way, nothing comes the other.
struct Last {
    since: Instant,
    /// Milliseconds.
    at: AtomicU64,
}

impl Last {
    fn now(&self) {
        self.at.store(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    async fn long_ago(&self, patience: Duration) {
        loop {
            let at = self.since + Duration::from_millis(self.at.load(Ordering::Relaxed));
            if at.elapsed() > patience {
                return;
            }
            tokio::time::sleep(patience / 10).await;
        }
    }
}

/// Whom to ask for a connection to `address`: who is reached, each but once.
pub(crate) fn helpers(shared: &Shared, address: &str) -> Vec<Arc<Peer>> {
    const MOST_ASKED: usize = 3;
    let mut helpers = shared.all_peers();
    helpers.retain(|peer| peer.address != address && peer.is_reached());
    if !helpers.is_empty() {
        // Not all through the same one.
        let first = usize::try_from(shared.random() % helpers.len() as u64).unwrap_or_default();
        helpers.rotate_left(first);
    }
    helpers.truncate(MOST_ASKED);
    helpers
}
