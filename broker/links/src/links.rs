//! The handle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{LinkError, SendError, StartError};
use crate::handler::Handler;
use crate::hello::{Hello, HelloError};
use crate::metrics::{LinkMetrics, PeerStatus};
use crate::options::{Class, LinkConfig};
use crate::pki::{PkiError, TlsMaterial};

/// A node's links to all its peers. Cheap to clone; when the last clone is dropped, everything is closed.
#[derive(Clone)]
pub struct Links {}

#[allow(unused_variables, clippy::unimplemented, clippy::unused_async)]
impl Links {
    /// Listens, and accepts peers. Call within a tokio runtime: all tasks and handlers run there; the other calls work
    /// from any thread and runtime.
    pub async fn start(
        config: LinkConfig,
        hello: Hello,
        handler: Arc<dyn Handler>,
    ) -> Result<Links, StartError> {
        unimplemented!()
    }

    /// The socket listened on.
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// Asks a peer and waits for its answer. The first call for an address makes the peer known and dials it.
    ///
    /// Dropping the future gives the answer up; the peer may handle the request nevertheless.
    pub async fn request(
        &self,
        address: &str,
        kind: u16,
        payload: Bytes,
        class: Class,
        deadline: Duration,
    ) -> Result<Bytes, LinkError> {
        unimplemented!()
    }

    /// Hands over a one-way frame: in order, kept until the peer acknowledged it. Never waits.
    pub fn send(&self, address: &str, kind: u16, payload: Bytes) -> Result<(), SendError> {
        unimplemented!()
    }

    /// Says which boot lives at an address from now on (from a committed entry, say): connections to another one are
    /// cut and dialled again at once, so that frames for the new boot do not go into a connection that is dead but not yet
    /// found to be.
    pub fn expect(&self, address: &str, incarnation: u128, boot: u64) {
        unimplemented!()
    }

    /// Ends all connections to a peer; what waits for it is dropped and counted. Unknown addresses are ignored.
    pub fn forget(&self, address: &str) {
        unimplemented!()
    }

    /// Changes what this node says about itself (its Raft id after the join). Announced on open connections before
    /// anything that is queued after this call.
    pub fn set_hello(&self, hello: Hello) -> Result<(), HelloError> {
        unimplemented!()
    }

    /// The Hello in use.
    pub fn hello(&self) -> Arc<Hello> {
        unimplemented!()
    }

    /// New handshakes use this; open connections stay.
    pub fn set_tls(&self, tls: &TlsMaterial) -> Result<(), PkiError> {
        unimplemented!()
    }

    /// All peers that this node dials, by address.
    pub fn peers(&self) -> Vec<PeerStatus> {
        unimplemented!()
    }

    /// One peer.
    pub fn peer(&self, address: &str) -> Option<PeerStatus> {
        unimplemented!()
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<LinkMetrics> {
        unimplemented!()
    }

    /// Waits until every one-way frame was acknowledged; false when the deadline came first.
    pub async fn drain(&self, deadline: Duration) -> bool {
        unimplemented!()
    }

    /// Closes the listener and all connections. Later calls fail with `Shutdown`.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
