//! One client: its connection, and what it is in the run.

use crate::flight::{Flight, Unreleased};
use crate::link::Link;
use crate::pace::Turn;
use crate::plan::Side;
use crate::track::Track;
use crate::wire::PublishForm;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its turn to connect has not come.
    New,
    /// TCP.
    Connecting,
    /// TLS, then WebSocket.
    Handshake,
    /// CONNECT was sent.
    Connect,
    /// SUBSCRIBE was sent, so many SUBACKs are missing.
    Subscribe(u16),
    /// It can be used.
    Ready,
    /// It is over.
    Closed,
}

impl State {
    /// What is waited for.
    pub(crate) const fn waits_for(self) -> Option<&'static str> {
        match self {
            Self::Connecting => Some("TCP connection"),
            Self::Handshake => Some("TLS or WebSocket handshake"),
            Self::Connect => Some("CONNACK"),
            Self::Subscribe(_) => Some("SUBACK"),
            Self::New | Self::Ready | Self::Closed => None,
        }
    }

    /// Where a connection broke off.
    pub(crate) const fn when(self) -> &'static str {
        match self {
            Self::New | Self::Connecting | Self::Handshake => {
                "during the handshake; is it a port for the scheme of --url?"
            }
            Self::Connect => "before CONNACK",
            Self::Subscribe(_) => "before SUBACK",
            Self::Ready | Self::Closed => "without DISCONNECT",
        }
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) side: Side,
    /// Among the publishers, or among the subscribers.
    pub(crate) index: u32,
    pub(crate) state: State,
    pub(crate) link: Option<Link>,
    /// The begin of a packet.
    pub(crate) partial: Vec<u8>,
    /// Packets to be sent.
    pub(crate) out: Vec<u8>,
    /// It is on the list of those to be flushed.
    pub(crate) dirty: bool,
    /// The socket took not everything: it is watched for when it takes more.
    pub(crate) blocked: bool,
    /// When it began to connect, in nanoseconds.
    pub(crate) began: u64,
    /// When something was sent last, in nanoseconds.
    pub(crate) sent_at: u64,
    /// When an unanswered PINGREQ was sent; 0: none.
    pub(crate) pinged_at: u64,
    /// Seconds; 0: none.
    pub(crate) keep_alive: u16,
    pub(crate) publisher: Option<Box<Publisher>>,
    pub(crate) receiver: Option<Box<Receiver>>,
}

impl Client {
    pub(crate) const fn new(side: Side, index: u32) -> Self {
        Self {
            side,
            index,
            state: State::New,
            link: None,
            partial: Vec::new(),
            out: Vec::new(),
            dirty: false,
            blocked: false,
            began: 0,
            sent_at: 0,
            pinged_at: 0,
            keep_alive: 0,
            publisher: None,
            receiver: None,
        }
    }

    /// Bytes that wait for the socket.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len() + self.link.as_ref().map_or(0, Link::waiting)
    }
}

/// What a publisher has.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) form: PublishForm,
    pub(crate) flight: Flight,
    pub(crate) sent: u64,
    /// How many it may send at all.
    pub(crate) quota: u64,
    pub(crate) turn: Turn,
    /// It is on the list of those that can go on.
    pub(crate) runnable: bool,
    /// Since when its window has been full, in nanoseconds; 0: it is not.
    pub(crate) stuck_since: u64,
    /// It stopped only because enough waits for the socket.
    pub(crate) more: bool,
}

/// What a subscriber has.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    pub(crate) tracks: Tracks,
    pub(crate) unreleased: Unreleased,
}

/// What came of each publisher.
#[derive(Debug, Default)]
pub(crate) enum Tracks {
    /// Nothing is known of publishers.
    #[default]
    None,
    /// Of the only one, whose number this is.
    One(u32, Track),
    /// Of all, by their number.
    All(Vec<Track>),
    /// Of whoever sends, by the sender field of its stamps; bounded.
    Any(std::collections::HashMap<u32, Track>),
}
