//! The protocol state machine of one connected client, without I/O.
//!
//! A worker decodes packets and gives them to a [`Connection`], which appends what must be sent to the worker's write buffer and
//! says by [`Action`]s what the server has to do; the server's answers come back by `on_authenticated`, `on_opened`, `on_published`,
//! `on_subscribed` and `on_unsubscribed`. Messages for the client go through [`Connection::deliver`]. Time is an argument ([`Now`]).
//!
//! ```text
//!  socket ─► decode ─► on_packet ──► actions: Authenticate, Open, Publish, Subscribe, Unsubscribe, Close
//!  socket ◄─── out ◄──┤                              │
//!                     ├── on_opened, on_published, … ◄── server
//!                     └── deliver ◄──────────────────── routing
//! ```
//!
//! What outlives the connection is its [`SessionState`]: subscriptions, messages in flight, messages waiting, identifiers of QoS 2
//! messages that the client has not released.
//!
//! The queue of a durable session may be in a shard instead ([`OpenResult::Durable`]). Its messages come by [`Connection::on_granted`] under
//! the identifiers that the shard has given them, and what the client answers goes there: [`Action::Settled`], [`Action::Received`],
//! [`Action::Released`].
//!
//! Which parts of the protocol a client may use is set by [`SessionLimits`]; CONNACK says so, and what is not there is refused.
//!
//! Statements of the specifications are cited where they are implemented: `[MQTT-3.1.2-22]` is of MQTT 5.0, `[MQTT311-3.1.2-24]`
//! of MQTT 3.1.1.
//!
//! Rules of use:
//! - While [`Connection::can_read`] is false no packet may be given: the worker stops reading and keeps the bytes it has.
//! - After [`Action::Close`] the worker writes what is in `out`, closes the socket and takes [`Connection::into_state`].
//! - The worker says by [`Connection::set_congested`] that the socket takes no more, and by [`Connection::on_writable`] that it does again.

mod acks;
mod action;
mod alias;
mod alias_out;
mod auth;
mod close;
mod connack;
mod connect;
mod connection;
mod deliver;
mod durable;
mod filter;
mod forms;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod granted;
mod inbound;
mod limits;
mod matched;
mod message;
mod outbound;
mod publish;
mod rate;
mod received;
mod request;
mod state;
mod subscribe;
mod tickets;
mod unsettled;

pub use action::{Action, Flushed, PublishToken, SubscribeItem};
pub use close::CloseReason;
pub use connection::{Connection, Now, Origins};
pub use forms::Forms;
pub use granted::{Granted, GrantedDelivery, Settlement};
pub use limits::{Limit, SessionLimits};
pub use matched::Matched;
pub use outbound::{Delivery, DropReason};
pub use rate::{Bucket, Rate};
pub use request::{AuthKind, AuthRequest, AuthStep, OpenRequest, OpenResult, OwnedWill, SERVING_LOCAL, Secret};
pub use state::{SessionState, SubscriptionEntry, SubscriptionInfo};
pub use tickets::TicketDelivery;
