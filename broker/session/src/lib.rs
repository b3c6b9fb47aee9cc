//! The protocol state machine of one connected client, without I/O.
//!
//! A worker decodes packets and gives them to a [`Connection`], which appends what must be sent to the worker's write buffer and
//! says by [`Action`]s what the server has to do; the server's answers come back by `on_opened`, `on_published`, `on_subscribed` and
//! `on_unsubscribed`. Messages for the client go through [`Connection::deliver`]. Time is an argument ([`Now`]).
//!
//! ```text
//!  socket ─► decode ─► on_packet ──► actions: Open, Publish, Subscribe, Unsubscribe, Close
//!  socket ◄─── out ◄──┤                              │
//!                     ├── on_opened, on_published, … ◄── server
//!                     └── deliver ◄──────────────────── routing
//! ```
//!
//! What outlives the connection is its [`SessionState`]: subscriptions, messages in flight, messages waiting.
//!
//! What this release does not offer is announced so in CONNACK and refused: QoS 2, retained messages, shared subscriptions,
//! extended authentication. Topic aliases are taken from clients and not used towards them. Wills are parsed and handed over in [`OpenRequest`].
//!
//! Rules of use:
//! - While [`Connection::can_read`] is false no packet may be given: the worker stops reading and keeps the bytes it has.
//! - After [`Action::Close`] the worker writes what is in `out`, closes the socket and takes [`Connection::into_state`].
//! - The worker says by [`Connection::set_congested`] that the socket takes no more, and by [`Connection::on_writable`] that it does again.

mod action;
mod alias;
mod close;
mod connect;
mod connection;
mod deliver;
mod forms;
mod inbound;
mod limits;
mod outbound;
mod publish;
mod state;
mod subscribe;

pub use action::{Action, Flushed, OpenRequest, OpenResult, OwnedWill, Password, PublishToken, SubscribeItem};
pub use close::CloseReason;
pub use connection::{Connection, Now, Origins};
pub use forms::Forms;
pub use limits::SessionLimits;
pub use outbound::{Delivery, DropReason};
pub use state::{SessionState, SubscriptionEntry, SubscriptionInfo};
