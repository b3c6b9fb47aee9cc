//! The broker as its clients see it: a real process with two workers, and raw MQTT on real sockets.

#![allow(clippy::unwrap_used)]

mod client;
mod events;
mod extensions;
mod flow;
mod lifecycle;
mod measure;
mod packets;
mod process;
mod retained;
mod sessions;
mod sharing;
mod wills;
mod words;
