//! From a TLS connection to two nodes that know each other.
//!
//! The accepting side speaks first, and the dialling side waits for it: so a refusal, be it TLS's or ours, is never
//! discarded by the kernel because something unread came after it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::{AlertDescription, CommonState};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::frame::{Frame, FrameType, MAX_HANDSHAKE_BYTES};
use crate::hello::{Direction, Hello, PeerHello, Refusal};
use crate::inbox::Claim;
use crate::io::{FrameBuffer, write_frame};
use crate::options::Class;
use crate::pki::CertIdentity;
use crate::shared::{Shared, lock};

#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// This node said no.
    #[error("{0}")]
    RefusedHere(Refusal),
    /// The peer said no.
    #[error("the peer says: {0}")]
    RefusedThere(String),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for HandshakeError {
    /// TLS reports what it does not like as I/O errors.
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(why)) => HandshakeError::RefusedHere(Refusal {
                code: crate::hello::RefusalCode::Certificate,
                reason: format!("the peer's certificate is not accepted: {why:?}"),
            }),
            Some(rustls::Error::NoCertificatesPresented) => HandshakeError::RefusedHere(Refusal {
                code: crate::hello::RefusalCode::Certificate,
                reason: "the peer shows no certificate".to_owned(),
            }),
            Some(rustls::Error::AlertReceived(alert)) if is_about_certificate(*alert) => {
                HandshakeError::RefusedThere(format!("this node's certificate is not accepted ({alert:?})"))
            }
            _ => HandshakeError::Io(error),
        }
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription::*;
    matches!(
        alert,
        BadCertificate
            | UnsupportedCertificate
            | CertificateRevoked
            | CertificateExpired
            | CertificateUnknown
            | UnknownCA
            | AccessDenied
            | DecryptError
            | CertificateRequired
    )
}

/// What a handshake leaves.
pub(crate) struct Known {
    pub(crate) peer: Arc<PeerHello>,
    pub(crate) buffer: FrameBuffer,
    /// Has not seen changes since the Hello that was sent.
    pub(crate) hello: watch::Receiver<Arc<Hello>>,
}

/// What a connection is for, as the dialling side's Hello says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Stream(Class),
    /// See [`crate::relay`].
    Relay,
}

/// The dialling side, up to the other's acceptance; `kind` is what the connection is for. Opening a one-way stream comes after.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    certificate: CertIdentity,
    shared: &Shared,
    address: &str,
    remote: SocketAddr,
    kind: u16,
) -> Result<Known, HandshakeError> {
    let mut buffer = FrameBuffer::new(MAX_HANDSHAKE_BYTES);
    let first = buffer.next(io).await?;
    let mut hello = shared.hello.subscribe();
    let own = Arc::clone(&hello.borrow_and_update());
    let peer = PeerHello {
        hello: parse_hello(&first)?,
        direction: Direction::Outbound,
        remote,
        address: Some(address.to_owned()),
    };
    if let Err(refusal) = admit(shared, &own, &peer, &certificate) {
        return Err(refuse(io, refusal).await);
    }
    let greeting = Frame::new(FrameType::Hello, 0).with_kind(kind).with_payload(own.encode());
    write_frame(io, &greeting).await?;
    let answer = buffer.next(io).await?;
    match answer.frame_type {
        FrameType::Accepted => {}
        FrameType::Refused => return Err(refused_there(&answer)),
        other => return Err(unexpected(other)),
    }
    // Room for the deadline before the caller's payload.
    buffer.set_max_payload(shared.options.max_frame_bytes + 4);
    Ok(Known { peer: Arc::new(peer), buffer, hello })
}

/// Opens the one-way stream `epoch`; returns the last frame that the peer handled, or that it does not know any more.
pub(crate) async fn open_stream<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    buffer: &mut FrameBuffer,
    epoch: u64,
    resumed: bool,
) -> Result<Option<u64>, HandshakeError> {
    let open = Frame::new(FrameType::Open, epoch).with_kind(u16::from(resumed));
    write_frame(io, &open).await?;
    let answer = buffer.next(io).await?;
    match answer.frame_type {
        FrameType::Ack => Ok((answer.kind == 0).then_some(answer.id)),
        FrameType::Refused => Err(refused_there(&answer)),
        other => Err(unexpected(other)),
    }
}

/// The accepting side.
pub(crate) async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    certificate: CertIdentity,
    shared: &Shared,
    remote: SocketAddr,
) -> Result<(Known, Kind), HandshakeError> {
    let mut buffer = FrameBuffer::new(MAX_HANDSHAKE_BYTES);
    let mut hello = shared.hello.subscribe();
    let own = Arc::clone(&hello.borrow_and_update());
    let greeting = Frame::new(FrameType::Hello, 0).with_payload(own.encode());
    write_frame(io, &greeting).await?;
    let first = buffer.next(io).await?;
    if first.frame_type == FrameType::Refused {
        return Err(refused_there(&first));
    }
    let class = u8::try_from(first.kind).ok().and_then(Class::from_index);
    let kind = match class {
        Some(class) => Kind::Stream(class),
        None if first.kind == crate::relay::KIND => Kind::Relay,
        None => {
            let refusal = Refusal::protocol(format!("unknown class {}", first.kind));
            return Err(refuse(io, refusal).await);
        }
    };
    let peer_hello = match parse_hello(&first) {
        Ok(hello) => hello,
        Err(HandshakeError::RefusedHere(refusal)) => return Err(refuse(io, refusal).await),
        Err(other) => return Err(other),
    };
    let peer = PeerHello { hello: peer_hello, direction: Direction::Inbound, remote, address: None };
    if let Err(refusal) = admit(shared, &own, &peer, &certificate) {
        return Err(refuse(io, refusal).await);
    }
    write_frame(io, &Frame::new(FrameType::Accepted, 0)).await?;
    buffer.set_max_payload(shared.options.max_frame_bytes + 4);
    let known = Known { peer: Arc::new(peer), buffer, hello };
    Ok((known, kind))
}

/// The accepting side of [`open_stream`]; `open` is a frame of that type.
pub(crate) fn claim_stream(shared: &Shared, sender: &Hello, open: &Frame) -> Result<Claim, Refusal> {
    lock(&shared.inbox)
        .open((sender.incarnation, sender.boot), open.id, open.kind != 0)
        .map_err(|error| Refusal::protocol(error.to_string()))
}

/// Checks a Hello that was sent again on an open connection.
pub(crate) fn renew(shared: &Shared, peer: &PeerHello, frame: &Frame) -> Result<Arc<PeerHello>, HandshakeError> {
    let hello = parse_hello(frame)?;
    if !hello.same_boot(&peer.hello) {
        let refusal = Refusal::protocol("the peer became another node on an open connection");
        return Err(HandshakeError::RefusedHere(refusal));
    }
    let renewed = PeerHello { hello, ..peer.clone() };
    shared.handler.on_hello(&renewed).map_err(HandshakeError::RefusedHere)?;
    Ok(Arc::new(renewed))
}

/// Whom the peer's certificate names; TLS has checked its chain.
pub(crate) fn certificate_of(tls: &CommonState) -> Result<CertIdentity, HandshakeError> {
    let leaf = tls.peer_certificates().and_then(<[_]>::first);
    let refusal =
        |reason: String| HandshakeError::RefusedHere(Refusal { code: crate::hello::RefusalCode::Certificate, reason });
    let leaf = leaf.ok_or_else(|| refusal("the peer shows no certificate".to_owned()))?;
    CertIdentity::from_der(leaf).map_err(|error| refusal(error.to_string()))
}

fn admit(shared: &Shared, own: &Hello, peer: &PeerHello, certificate: &CertIdentity) -> Result<(), Refusal> {
    own.judge(&peer.hello, certificate)?;
    shared.handler.on_hello(peer)
}

fn parse_hello(frame: &Frame) -> Result<Hello, HandshakeError> {
    if frame.frame_type != FrameType::Hello {
        return Err(unexpected(frame.frame_type));
    }
    Hello::decode(&frame.payload).map_err(|error| HandshakeError::RefusedHere(Refusal::protocol(error.to_string())))
}

pub(crate) fn unexpected(frame_type: FrameType) -> HandshakeError {
    let refusal = Refusal::protocol(format!("unexpected {frame_type:?} in the handshake"));
    HandshakeError::RefusedHere(refusal)
}

pub(crate) fn refused_there(frame: &Frame) -> HandshakeError {
    HandshakeError::RefusedThere(Refusal::decode(&frame.payload).to_string())
}

/// Tells the peer, as far as it listens.
pub(crate) async fn refuse<S: AsyncWrite + Unpin>(io: &mut S, refusal: Refusal) -> HandshakeError {
    let frame = Frame::new(FrameType::Refused, 0).with_payload(refusal.encode());
    if write_frame(io, &frame).await.is_ok() {
        let _ = io.shutdown().await;
    }
    HandshakeError::RefusedHere(refusal)
}

/// Counts what this node refused of a connection that it dialled.
pub(crate) fn count_refused(shared: &Shared, error: &HandshakeError) {
    if matches!(error, HandshakeError::RefusedHere(_)) {
        shared.metrics.refused.fetch_add(1, Ordering::Relaxed);
    }
}
