//! What the owner of the links does with what arrives.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::hello::{PeerHello, Refusal};

/// The answer of a request: a payload, or a text for the caller's [`LinkError::Remote`](crate::LinkError::Remote).
pub type HandlerFuture = BoxFuture<'static, Result<Bytes, String>>;

/// Receives what peers send. Called on the runtime that the links were started on.
pub trait Handler: Send + Sync + 'static {
    /// A peer said who it is, and its certificate agrees; on connections dialled by either side, and again when a peer's
    /// Hello changes. A refusal closes the connection and its reason is told to the peer. Must not block.
    fn on_hello(&self, peer: &PeerHello) -> Result<(), Refusal> {
        let _ = peer;
        Ok(())
    }

    /// A request. Handlers run concurrently within the bounds of their class; the future is dropped at the caller's deadline.
    fn on_request(&self, peer: Arc<PeerHello>, kind: u16, payload: Bytes) -> HandlerFuture;

    /// A one-way frame: in the sender's order, at most once. Runs on the connection's own task and must not block; while it
    /// runs, the sender's queue fills. An error says why it is not taken now: the connection is closed, and the sender offers the frame
    /// on the next one, until somebody takes it back there.
    fn on_frame(&self, peer: &Arc<PeerHello>, kind: u16, payload: Bytes) -> Result<(), String>;

    /// A one-way frame is dropped: it was written to an earlier boot of the peer, which may have `handled` it, or the peer was
    /// forgotten. Must not block.
    fn on_undelivered(&self, kind: u16, payload: Bytes, handled: bool) {
        let _ = (kind, payload, handled);
    }
}
