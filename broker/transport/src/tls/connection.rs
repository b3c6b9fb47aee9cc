//! The server's side of one TLS connection.
//!
//! rustls keeps 4 KiB to read into and nothing else while a connection is idle: what it decrypts is taken out at once, and so
//! is what it has to send. (Its interface without any buffers leaves it to the caller to present the same bytes again in the right
//! state, and panics where they are not.)

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use super::names::{TlsPeer, subject_of};

/// What rustls reads into between two records; for a longer record it grows.
const READ: usize = 4_096;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The client broke the protocol, or there is no agreement with it.
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    /// A message without end.
    #[error("a TLS message is too long")]
    TooLong,
    /// So much was sent with one key that it must not be used any more.
    #[error("the keys of the TLS connection are used up")]
    Exhausted,
}

/// One connection.
#[derive(Debug)]
pub struct Tls {
    connection: ServerConnection,
    open: bool,
    /// `close_notify` or a fatal alert was sent.
    closed: bool,
}

impl Tls {
    /// At the start of a connection.
    ///
    /// # Errors
    /// rustls does not take the configuration.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self { connection: ServerConnection::new(config)?, open: false, closed: false })
    }

    /// Whether plain bytes may be sent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open && !self.closed
    }

    /// Takes bytes from the client, as they come. Plain bytes are appended to `plain` (also those before an error), what is
    /// to be sent to `out`. Once the handshake is done, `peer` is filled in. True: the client has closed the connection.
    ///
    /// # Errors
    /// [`TlsError`]: the connection is to be closed when `out`, which says why, is written.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        peer: &mut TlsPeer,
    ) -> Result<bool, TlsError> {
        let before = plain.len();
        let mut result = Ok(false);
        while !bytes.is_empty() && matches!(result, Ok(false)) {
            // It has room but for a handshake message beyond all bounds.
            result = match self.connection.read_tls(&mut bytes) {
                Ok(_) => self.connection.process_new_packets().map(|state| state.peer_has_closed()).map_err(Into::into),
                Err(_) => Err(TlsError::TooLong),
            };
            self.take_plain(plain);
        }
        self.flush(out);
        match &result {
            Ok(_) => self.opened(peer),
            Err(_) => self.closed = true,
        }
        if plain.len() - before >= READ {
            // A long record made it grow: it shrinks at the next read, though there is nothing.
            let _ = self.connection.read_tls(&mut Nothing);
        }
        result
    }

    fn take_plain(&mut self, plain: &mut Vec<u8>) {
        let mut reader = self.connection.reader();
        // An error says that there is no more for now.
        while let Ok(chunk) = reader.fill_buf()
            && !chunk.is_empty()
        {
            plain.extend_from_slice(chunk);
            let length = chunk.len();
            reader.consume(length);
        }
    }

    fn opened(&mut self, peer: &mut TlsPeer) {
        if self.open || self.connection.is_handshaking() {
            return;
        }
        self.open = true;
        peer.server_name = self.connection.server_name().map(Into::into);
        if let Some(certificate) = self.connection.peer_certificates().and_then(|chain| chain.first()) {
            (peer.common_name, peer.subject) = subject_of(certificate);
        }
    }

    /// Encrypts plain bytes and appends the records to `out`. Only once [`Tls::is_open`].
    ///
    /// # Errors
    /// [`TlsError`]: nothing more can be sent.
    pub fn send(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        while !plain.is_empty() {
            // As much as its limit allows.
            match self.connection.writer().write(plain) {
                Ok(0) | Err(_) => return Err(TlsError::Exhausted),
                Ok(count) => plain = &plain[count..],
            }
            self.flush(out);
        }
        Ok(())
    }

    /// Says that nothing more is sent, if that can still be said.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.is_open() {
            self.connection.send_close_notify();
            self.flush(out);
        }
        self.closed = true;
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing to a Vec cannot fail.
            if self.connection.write_tls(out).is_err() {
                return;
            }
        }
    }
}

/// A source that has nothing for now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
