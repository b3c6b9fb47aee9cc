//! What lies between a socket and MQTT: PROXY protocol, TLS and WebSocket.
//!
//! Everything here is a state machine without I/O: bytes of the socket in, bytes of MQTT and answers out, and the other way
//! round. Nothing knows sockets, files, clocks or threads; who drives it has the deadlines, and limits what waits to be sent.
//!
//! - [`proxy`]: the header of a load balancer.
//! - [`tls`]: rustls, its settings from PEM, certificates by server name, revocation lists.
//! - [`ws`]: the request to upgrade, and frames.
//! - [`Layers`]: those of them that a listener has, one on the other. A connection without any has none.
//! - [`PeerInfo`]: who is at the other end, as far as the layers know.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod layers;
mod peer;
pub mod proxy;
pub mod tls;
pub mod ws;

pub use layers::{LayerError, Layers, Received};
pub use peer::{PeerInfo, Transport};
