//! Errors of the public calls.

use std::net::SocketAddr;

use thiserror::Error;

use crate::pki::PkiError;

/// Why links did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] PkiError),
    /// The local Hello is not one that peers would accept.
    #[error(transparent)]
    Hello(#[from] crate::hello::HelloError),
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// Too much is waiting for this peer in this class. Never sent.
    #[error("the queue to {address} ({class}) is full: {queued} of {max}")]
    QueueFull {
        /// The peer.
        address: String,
        /// The class.
        class: &'static str,
        /// Bytes waiting, or requests outstanding.
        queued: usize,
        /// The bound.
        max: usize,
    },
    /// The payload is larger than a frame may be. Never sent.
    #[error("a payload of {size} bytes is larger than a frame may be ({max})")]
    TooLarge {
        /// Size of the payload.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// No answer in time; the peer may have done it.
    #[error("no answer in time")]
    Deadline,
    /// The peer cannot be reached. Never sent.
    #[error("cannot reach the peer: {0}")]
    Unreachable(String),
    /// One of the two sides refused the other. Never sent.
    #[error("refused: {0}")]
    Refused(String),
    /// The connection broke after the request was written: the peer may have done it.
    #[error("the connection broke before the answer: {0}")]
    Disconnected(String),
    /// The peer has too many requests of this class; it did not handle it.
    #[error("the peer is busy")]
    Busy,
    /// The peer's handler answered with an error.
    #[error("the peer answered: {0}")]
    Remote(String),
    /// [`Class::Data`](crate::Class::Data) takes no requests.
    #[error("the data class takes no requests")]
    WrongClass,
    /// The peer was forgotten or the links were shut down.
    #[error("the links are shut down, or the peer was forgotten")]
    Shutdown,
}

/// Why a one-way frame was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SendError {
    /// Too much is waiting for this peer.
    #[error("the queue to {address} is full: {queued} of {max} bytes")]
    QueueFull {
        /// The peer.
        address: String,
        /// Bytes waiting.
        queued: usize,
        /// The bound.
        max: usize,
    },
    /// The payload is larger than a frame may be.
    #[error("a payload of {size} bytes is larger than a frame may be ({max})")]
    TooLarge {
        /// Size of the payload.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// The links were shut down.
    #[error("the links are shut down")]
    Shutdown,
}
