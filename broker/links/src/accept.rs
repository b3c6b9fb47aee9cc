//! Connections that peers dialled.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::frame::{FLAG_BUSY, FLAG_ERROR, Frame, FrameType};
use crate::handshake::{self, HandshakeError, Kind, Known};
use crate::heard::Ear;
use crate::hello::PeerHello;
use crate::inbox::Claim;
use crate::io::{Batch, FrameBuffer, write_frame, write_loop};
use crate::metrics::DropReason;
use crate::options::Class;
use crate::relay;
use crate::shared::{Shared, lock, request_cost};
use crate::socket;

/// A request whose caller set no sensible deadline is not worked on for ever.
const MAX_DEADLINE: Duration = Duration::from_secs(600);

/// Accepts until it is aborted; then all connections end.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((_, remote)) if connections.len() >= shared.options.max_inbound => {
                shared.note_refused(remote.ip(), "too many connections");
            }
            Ok((tcp, remote)) => {
                connections.spawn(connection(Arc::clone(&shared), tcp, remote));
            }
            Err(error) => {
                // Out of descriptors, mostly: accepting at once again would spin.
                warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, tcp: TcpStream, remote: SocketAddr) {
    let limit = shared.options.connect_timeout;
    let greeted = tokio::time::timeout(limit, greet(&shared, tcp, remote)).await;
    let (stream, known, purpose) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(HandshakeError::RefusedHere(refusal))) => {
            shared.note_refused(remote.ip(), &refusal.reason);
            return;
        }
        Ok(Err(HandshakeError::RefusedThere(reason))) => {
            shared.log_once(remote.ip(), &reason, "refused by a peer that dialled");
            return;
        }
        Ok(Err(error)) => {
            debug!(%remote, %error, "a peer's connection ended in its handshake");
            return;
        }
        Err(_) => {
            debug!(%remote, "a peer's handshake took too long");
            return;
        }
    };
    // One that asks for a way elsewhere says nothing of a new start.
    if matches!(purpose, Purpose::Stream(..)) {
        shared.peer_seen(&known.peer.hello);
    }
    shared.metrics.inbound.fetch_add(1, Ordering::Relaxed);
    // Counts down also when the task is aborted.
    let _open = Open(&shared);
    let node = known.peer.hello.node.clone();
    match purpose {
        Purpose::Stream(class, claim) => {
            let reason = serve(&shared, stream, known, class, claim).await;
            debug!(%remote, node, class = class.name(), reason, "a peer's connection ended");
        }
        Purpose::Relay => {
            let reason = relay::serve(&shared, stream, known).await;
            debug!(%remote, node, reason, "a connection that was passed on ended");
        }
    }
}

struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.inbound.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Purpose {
    /// A stream; one of one-way frames with where it goes on.
    Stream(Class, Option<Claim>),
    Relay,
}

type Greeted = (TlsStream<TcpStream>, Known, Purpose);

async fn greet(shared: &Shared, tcp: TcpStream, remote: SocketAddr) -> Result<Greeted, HandshakeError> {
    socket::prepare(&tcp)?;
    let mut stream = TlsAcceptor::from(shared.tls().server).accept(tcp).await?;
    let certificate = handshake::certificate_of(stream.get_ref().1)?;
    let (mut known, kind) = handshake::welcome(&mut stream, certificate, shared, remote).await?;
    let class = match kind {
        Kind::Relay => return Ok((stream, known, Purpose::Relay)),
        Kind::Stream(class) => class,
    };
    if class != Class::Data {
        return Ok((stream, known, Purpose::Stream(class, None)));
    }
    // The sender asks again, with another epoch, when its own is not known here any more.
    loop {
        let frame = known.buffer.next(&mut stream).await?;
        if frame.frame_type != FrameType::Open {
            let refusal = crate::hello::Refusal::protocol("a data stream begins with its opening");
            return Err(handshake::refuse(&mut stream, refusal).await);
        }
        let claim = match handshake::claim_stream(shared, &known.peer.hello, &frame) {
            Ok(claim) => claim,
            Err(refusal) => return Err(handshake::refuse(&mut stream, refusal).await),
        };
        let answer = Frame::new(FrameType::Ack, claim.last).with_kind(u16::from(!claim.known));
        write_frame(&mut stream, &answer).await?;
        if claim.known {
            return Ok((stream, known, Purpose::Stream(class, Some(claim))));
        }
    }
}

/// What waits to be written to a peer that dialled.
#[derive(Default)]
struct Answers {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Last one-way frame handled, and the last one acknowledged.
    handled: u64,
    acknowledged: u64,
    pong: Option<u64>,
    closed: bool,
}

#[derive(Default)]
struct Outgoing {
    answers: Mutex<Answers>,
    notify: Notify,
    /// The peer reads no answers: end the connection.
    overflow: Notify,
}

impl Outgoing {
    fn answer(&self, frame: Frame, max_bytes: usize) {
        let mut answers = lock(&self.answers);
        if answers.closed {
            return;
        }
        answers.bytes += frame.payload.len();
        answers.frames.push_back(frame);
        if answers.bytes > max_bytes {
            self.overflow.notify_one();
        }
        drop(answers);
        self.notify.notify_one();
    }

    fn fill(&self, batch: &mut Batch) {
        let mut answers = lock(&self.answers);
        if let Some(id) = answers.pong.take() {
            batch.push(&Frame::new(FrameType::Pong, id));
        }
        if answers.handled > answers.acknowledged {
            answers.acknowledged = answers.handled;
            batch.push(&Frame::new(FrameType::Ack, answers.handled));
        }
        while !batch.is_full()
            && let Some(frame) = answers.frames.pop_front()
        {
            answers.bytes -= frame.payload.len();
            batch.push(&frame);
        }
    }
}

/// Answers that come after the connection's end are thrown away at once.
struct CloseOnDrop(Arc<Outgoing>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let mut answers = lock(&self.0.answers);
        *answers = Answers { closed: true, ..Answers::default() };
    }
}

/// Runs a connection; returns why it ended.
async fn serve(
    shared: &Arc<Shared>,
    stream: TlsStream<TcpStream>,
    known: Known,
    class: Class,
    claim: Option<Claim>,
) -> String {
    let Known { peer, buffer, hello } = known;
    let (reader, writer) = tokio::io::split(stream);
    let outgoing = Arc::new(Outgoing::default());
    let _close = CloseOnDrop(Arc::clone(&outgoing));
    if let Some(claim) = &claim {
        let mut answers = lock(&outgoing.answers);
        answers.handled = claim.last;
        answers.acknowledged = claim.last;
    }
    let (metrics, left) = (shared.metrics.class(class), AtomicBool::new(false));
    let write = write_loop(writer, &outgoing.notify, hello, metrics, &left, |batch| outgoing.fill(batch), || ());
    let inbound = Inbound { shared, class, claim, outgoing: &outgoing, peer };
    tokio::select! {
        reason = inbound.listen(reader, buffer) => reason,
        written = write => match written {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        },
        () = outgoing.overflow.notified() => "the peer does not read its answers".to_owned(),
    }
}

struct Inbound<'a> {
    shared: &'a Arc<Shared>,
    class: Class,
    claim: Option<Claim>,
    outgoing: &'a Arc<Outgoing>,
    peer: Arc<PeerHello>,
}

impl Inbound<'_> {
    async fn listen<R: AsyncRead + Unpin>(mut self, mut io: R, mut buffer: FrameBuffer) -> String {
        let metrics = self.shared.metrics.class(self.class);
        // The dialling side pings: silence of several times its patience means that it is gone.
        let patience = self.shared.options.silence();
        let ear = self.claim.as_ref().map(|_| self.shared.heard.open(self.peer.hello.incarnation));
        loop {
            let mut handled = None;
            loop {
                match buffer.pop() {
                    Ok(Some(frame)) => {
                        if frame.frame_type.is_traffic() {
                            metrics.frames_in.fetch_add(1, Ordering::Relaxed);
                        }
                        if frame.frame_type == FrameType::Send {
                            handled = Some(frame.id);
                        }
                        if let Err(reason) = self.take(frame) {
                            return reason;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
            if handled.is_some()
                && let Some(claim) = &self.claim
            {
                // One acknowledgement for all that one read brought.
                let last = lock(&claim.stream).last();
                lock(&self.outgoing.answers).handled = last;
                self.outgoing.notify.notify_one();
            }
            match tokio::time::timeout(patience, buffer.fill(&mut io)).await {
                Ok(Ok(read)) => {
                    ear.iter().for_each(Ear::heard);
                    metrics.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
                }
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("nothing heard for {patience:?}"),
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame.frame_type {
            FrameType::Send => self.one_way(frame),
            FrameType::Request => self.request(frame),
            FrameType::Ping => {
                lock(&self.outgoing.answers).pong = Some(frame.id);
                self.outgoing.notify.notify_one();
                Ok(())
            }
            FrameType::Hello => {
                let renewed = handshake::renew(self.shared, &self.peer, &frame).map_err(|error| error.to_string())?;
                self.peer = renewed;
                Ok(())
            }
            other => Err(format!("unexpected {other:?} from the peer")),
        }
    }

    fn one_way(&mut self, frame: Frame) -> Result<(), String> {
        let Some(claim) = &self.claim else {
            return Err("a one-way frame outside of the data class".to_owned());
        };
        // The lock is held while the frame is handled: see `InStream`.
        let mut stream = lock(&claim.stream);
        match stream.accepts(claim.owner, frame.id) {
            Ok(true) => {
                self.shared.handler.on_frame(&self.peer, frame.kind, frame.payload)?;
                stream.handled(frame.id);
            }
            Ok(false) => self.shared.metrics.count_dropped(DropReason::Duplicate, 1),
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    fn request(&mut self, mut frame: Frame) -> Result<(), String> {
        if self.class == Class::Data || frame.payload.len() < 4 {
            return Err("a malformed request".to_owned());
        }
        let deadline = Duration::from_millis(frame.payload.get_u32_le().into()).min(MAX_DEADLINE);
        let gate = &self.shared.gates[self.class.index()];
        let cost = u32::try_from(request_cost(frame.payload.len())).unwrap_or(u32::MAX);
        let max_answers = self.shared.options.send_queue_bytes;
        let id = frame.id;
        let Ok(admitted) = Arc::clone(&gate.bytes).try_acquire_many_owned(cost) else {
            self.shared.metrics.count_dropped(DropReason::Busy, 1);
            let busy = answer(id, FLAG_BUSY, Bytes::new());
            self.outgoing.answer(busy, max_answers);
            return Ok(());
        };
        let running = Arc::clone(&gate.running);
        let shared = Arc::clone(self.shared);
        let outgoing = Arc::clone(self.outgoing);
        let peer = Arc::clone(&self.peer);
        tokio::spawn(async move {
            let mut unanswered = Unanswered { outgoing: Arc::clone(&outgoing), id, armed: true };
            let work = async {
                let _slot = running.acquire().await.map_err(|e| e.to_string())?;
                shared.handler.on_request(peer, frame.kind, frame.payload).await
            };
            // At the deadline nobody waits any more.
            let worked = tokio::time::timeout(deadline, work).await;
            unanswered.armed = false;
            if let Ok(result) = worked {
                let max = shared.options.max_frame_bytes;
                let frame = match result {
                    Ok(payload) if payload.len() > max => {
                        let text = format!("an answer of {} bytes, allowed are {max}", payload.len());
                        answer(id, FLAG_ERROR, text.into())
                    }
                    Ok(payload) => answer(id, 0, payload),
                    Err(mut text) => {
                        let end = text.floor_char_boundary(4096);
                        text.truncate(end);
                        answer(id, FLAG_ERROR, text.into())
                    }
                };
                outgoing.answer(frame, max_answers.max(2 * max));
            }
            drop(admitted);
        });
        Ok(())
    }
}

/// Answers for a handler that panicked: its caller need not wait for the deadline.
struct Unanswered {
    outgoing: Arc<Outgoing>,
    id: u64,
    armed: bool,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.armed {
            let text = Bytes::from_static(b"the handler failed");
            let frame = answer(self.id, FLAG_ERROR, text);
            self.outgoing.answer(frame, usize::MAX);
        }
    }
}

fn answer(id: u64, flags: u8, payload: Bytes) -> Frame {
    Frame { flags, ..Frame::new(FrameType::Answer, id).with_payload(payload) }
}
