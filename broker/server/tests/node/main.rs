//! The broker as its clients see it: a real process with two workers, and raw MQTT on real sockets.

#![allow(clippy::unwrap_used)]

mod bans;
mod check;
mod client;
mod events;
mod extensions;
mod flow;
mod lifecycle;
mod listeners;
mod measure;
mod overload;
mod packets;
mod pki;
mod process;
mod proxy;
mod quic;
mod rates;
mod reload;
mod retained;
mod sessions;
mod sharing;
mod slow;
mod tls;
mod tls_reload;
mod transports;
mod websocket;
mod wills;
mod words;
mod zones;
