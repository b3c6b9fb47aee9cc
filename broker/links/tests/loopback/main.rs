//! Links between real nodes: loopback sockets, real TLS, real certificates.
#![allow(clippy::unwrap_used)]

mod bounds;
mod identity;
mod one_way;
mod proxy;
mod relay;
mod requests;
mod support;
