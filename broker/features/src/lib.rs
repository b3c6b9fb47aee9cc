//! What a broker does besides publish and subscribe, without I/O: time comes as an argument, messages go out as values.
//!
//! - [`delayed`]: `$delayed/{seconds}/{topic}`, parsed, and the queue of messages that wait for their time.
//! - [`wills`]: what becomes of a will when its connection ends, and the wills that wait for their delay.
//! - [`rewrite`]: topics and filters changed by rules.
//! - [`auto_subscribe`]: subscriptions that a client gets without asking.
//! - [`exclusive`]: `$exclusive/{filter}`, one subscriber at a time.
//! - [`sys`]: the `$SYS` tree, EMQX's and Mosquitto's.
//! - [`events`]: what clients do, as JSON under `$SYS/brokers/{node}/clients/…`.
//!
//! Everything that holds something for clients is bounded, and says what happens when it is full. The settings of each
//! module are plain values with defaults; whoever reads configuration makes them.
//!
//! Where names or formats are another broker's (EMQX's in most cases), the module says what was taken over and what is
//! decided differently.

pub mod auto_subscribe;
pub mod delayed;
pub mod events;
pub mod exclusive;
mod filter;
pub mod flapping;
mod level;
mod message;
pub mod rewrite;
pub mod sys;
mod template;
pub mod wills;

pub use filter::split_prefix;
pub use level::topic_level;
pub use message::{ServerMessage, with_topic};
pub use template::{ClientVars, FillError, TemplateError};
