//! Node-to-node transport: mutual TLS, several streams a pair, batched, bounded.
//!
//! A node dials each peer by its *advertised address* (`host:port`, resolved anew at every dial) and keeps up
//! to four TCP connections to it, one a [`Class`], opened on first use. The connections that a peer
//! dials to this node are its own: a pair of nodes that both send uses two sets. So a large snapshot
//! never stands before a heartbeat, and the sender's side alone decides about reconnecting.
//!
//! * [`Links::request`]: many outstanding a connection, answers in any order, each with a deadline. A request that was
//!   written when its connection broke, or was left since nothing came, ends with [`LinkError::Disconnected`]: whether the peer did it is unknown.
//! * [`Links::send`]: one-way, in order, kept until acknowledged and resent after a reconnect. One boot of the peer
//!   handles each frame at most once, and none is lost while both processes live.
//!
//! # Where two nodes do not reach each other
//! A peer that cannot be dialled, or gives no sign of life on a connection for a second, is reached by way of another one that
//! reaches both, over one hop: that one passes on bytes that it can neither read nor change. When the peer can be dialled again, that is what is done.
//!
//! # Identity
//! Both sides present a certificate of the cluster's CA (TLS 1.3 only) and then a [`Hello`]. The certificate's
//! DNS names must hold `NODE.CLUSTER.nodes.raftmq.io` (or `*.CLUSTER.nodes.raftmq.io`) for the node and cluster of the Hello.
//! What does not match is refused with a [`Refusal`] that the other side shows in its [`PeerStatus`] too.
//!
//! # Differences from a plain socket that callers meet
//! * A payload that a handler gets is a slice of the connection's read buffer (no copy). Keep it for
//!   long and up to 32 KiB (or the large frame beside it) stay with it: copy what is small and lives long.
//! * Frames never written to any connection wait for whichever boot of the peer answers. Frames that were written but not
//!   acknowledged are dropped, and counted, when another boot answers. See [`Links::expect`].

mod accept;
mod converse;
mod dial;
mod error;
mod frame;
mod handler;
mod handshake;
mod heard;
mod hello;
mod inbox;
mod io;
mod links;
mod metrics;
mod options;
mod outbox;
mod path;
mod peer;
pub mod pki;
mod relay;
mod requests;
mod resolver;
mod shared;
mod socket;
mod vigil;

pub use error::{LinkError, SendError, StartError};
pub use handler::{Handler, HandlerFuture};
pub use hello::{Direction, Hello, HelloError, PeerHello, Refusal, RefusalCode};
pub use links::Links;
pub use metrics::{ClassMetrics, DropReason, LinkMetrics, PeerStatus};
pub use options::{Class, LinkConfig, LinkOptions};
pub use resolver::{Resolver, SystemResolver};
