//! MQTT over WebSocket (RFC 6455; MQTT 5.0 section 6): the request to upgrade, then frames.
//!
//! The frames are this module's own: all that a server needs of them is a header of at most 14 bytes and an exclusive-or,
//! and so an idle connection owns no buffer. MQTT packets and frames have nothing to do with each other: the bytes of
//! binary frames are one stream.

mod frame;
mod upgrade;

#[cfg(test)]
mod tests;

pub use frame::{CloseCode, FrameError};
pub use upgrade::{UpgradeError, WsSettings};

use std::sync::Arc;

use frame::{Decoder, Step, close_frame, frame_header, pong_frame};
use upgrade::{Upgrade, answer};

/// What ends a WebSocket connection from this side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    /// The request is not answered with an upgrade.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The frames are wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Ws {
    state: State,
    /// A close frame was sent: nothing may follow it.
    closed: bool,
}

#[derive(Debug)]
enum State {
    /// The request is not complete.
    Upgrading {
        settings: Arc<WsSettings>,
        partial: Vec<u8>,
    },
    Open(Decoder),
}

impl Ws {
    /// At the start of a connection.
    #[must_use]
    pub const fn new(settings: Arc<WsSettings>) -> Self {
        Self { state: State::Upgrading { settings, partial: Vec::new() }, closed: false }
    }

    /// Whether the upgrade is done and nothing was closed: bytes of MQTT may be sent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_)) && !self.closed
    }

    /// Takes bytes from the client, as they come. `bytes` from `start` on become what they carry of MQTT; answers to the
    /// client are appended to `out`. True: the client has closed the connection.
    ///
    /// # Errors
    /// [`WsError`]: the connection is to be closed when `out`, which says why, is written.
    pub fn receive(&mut self, bytes: &mut Vec<u8>, start: usize, out: &mut Vec<u8>) -> Result<bool, WsError> {
        let mut from = start;
        if let State::Upgrading { settings, partial } = &mut self.state {
            let known = partial.len();
            partial.extend_from_slice(&bytes[start..]);
            match answer(partial, settings, out) {
                Ok(Upgrade::Incomplete) => {
                    bytes.truncate(start);
                    return Ok(false);
                }
                Ok(Upgrade::Done { length }) => {
                    // What came behind the request are frames.
                    from += length - known;
                    self.state = State::Open(Decoder::default());
                }
                Err(error) => {
                    self.closed = true;
                    bytes.truncate(start);
                    return Err(error.into());
                }
            }
        }
        let State::Open(decoder) = &mut self.state else {
            return Ok(false);
        };
        let mut to = start;
        let mut result = Ok(false);
        while from < bytes.len() {
            match decoder.step(bytes, &mut from, &mut to) {
                Ok(Step::More) => {}
                Ok(Step::Ping) => {
                    if !self.closed {
                        pong_frame(decoder.control(), out);
                    }
                }
                Ok(Step::Close(code)) => {
                    if !self.closed {
                        close_frame(code, out);
                        self.closed = true;
                    }
                    result = Ok(true);
                    break;
                }
                Err(error) => {
                    if !self.closed {
                        close_frame(error.code(), out);
                        self.closed = true;
                    }
                    result = Err(error.into());
                    break;
                }
            }
        }
        bytes.truncate(to);
        result
    }

    /// Appends the header of one binary frame [MQTT-6.0.0-1] [MQTT311-6.0.0-1] with so many bytes, which must follow.
    pub fn frame(&self, length: usize, out: &mut Vec<u8>) {
        frame_header(length, out);
    }

    /// Appends a close frame, unless one was sent: the connection ends from this side.
    pub fn close(&mut self, code: CloseCode, out: &mut Vec<u8>) {
        if self.is_open() {
            close_frame(code, out);
        }
        self.closed = true;
    }
}
