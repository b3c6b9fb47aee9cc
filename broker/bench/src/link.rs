//! A socket with TLS and WebSocket on it, where the URL says so.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustls::ClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use crate::endpoints::Endpoint;
use crate::failure::Failure;
use crate::tls;
use crate::ws::Ws;

/// What one read takes from a socket.
pub(crate) const READ: usize = 128 << 10;

/// One connection, without what MQTT makes of it.
#[derive(Debug)]
pub(crate) struct Link {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    ws: Option<Box<Ws>>,
    /// The endpoint's WebSocket settings, until its request is made.
    ws_wanted: bool,
    /// Bytes for the socket, from `written` on.
    wire: Vec<u8>,
    written: usize,
}

impl Link {
    /// Begins to connect. When the socket is writable, [`Link::connected`] says how that went.
    pub(crate) fn connect(endpoint: &Endpoint, from: Option<IpAddr>) -> Result<Self, Failure> {
        let domain = Domain::for_address(endpoint.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(Failure::connect)?;
        socket.set_nonblocking(true).map_err(Failure::connect)?;
        socket.set_tcp_nodelay(true).map_err(Failure::connect)?;
        if let Some(from) = from {
            let bound = socket.bind(&SocketAddr::new(from, 0).into());
            bound.map_err(|error| match error.kind() {
                // The address is fine, its ports are all in use.
                io::ErrorKind::AddrInUse => Failure::Ports,
                _ => Failure::Bind(from, error),
            })?;
        }
        match socket.connect(&endpoint.address.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(Failure::connect(error)),
            _ => {}
        }
        let tls = match &endpoint.tls {
            Some((config, name)) => {
                let mut connection = ClientConnection::new(config.clone(), name.clone())
                    .map_err(|error| Failure::Tls(tls::explain(&error)))?;
                // What waits to be sent is bounded by whoever makes it.
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
            None => None,
        };
        Ok(Self {
            socket: socket.into(),
            tls,
            ws: None,
            ws_wanted: endpoint.ws_path.is_some(),
            wire: Vec::new(),
            written: 0,
        })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket is writable for the first time.
    pub(crate) fn connected(&mut self) -> Result<(), Failure> {
        match self.socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(Failure::connect(error)),
        }
    }

    /// Goes on with the handshakes as far as that can be done now: true when MQTT can be sent. What they have to say goes out by
    /// [`Link::flush`].
    pub(crate) fn handshake(&mut self, endpoint: &Endpoint, random: u64) -> Result<bool, Failure> {
        if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.take_tls()?;
            return Ok(false);
        }
        if self.ws_wanted {
            self.ws_wanted = false;
            let mut request = Vec::new();
            let path = endpoint.ws_path.as_deref().unwrap_or("/");
            self.ws = Some(Box::new(Ws::new(&endpoint.host, path, random, &mut request)));
            self.seal(&request)?;
        }
        Ok(self.ws.as_ref().is_none_or(|ws| ws.is_open()))
    }

    /// Reads once what there is; bytes of MQTT are appended to `plain`. Says how many bytes came from the socket: 0 is its end.
    pub(crate) fn read(&mut self, plain: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<usize, Failure> {
        let start = plain.len();
        let count = if self.tls.is_some() { self.read_tls(plain, scratch)? } else { read_into(&self.socket, plain)? };
        if let Some(ws) = &mut self.ws
            && plain.len() > start
        {
            let mut answers = Vec::new();
            ws.receive(plain, start, &mut answers)?;
            if !answers.is_empty() {
                self.seal(&answers)?;
            }
        }
        Ok(count)
    }

    fn read_tls(&mut self, plain: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<usize, Failure> {
        scratch.clear();
        let count = read_into(&self.socket, scratch)?;
        let Some(tls) = &mut self.tls else { return Ok(count) };
        let mut rest = &scratch[..];
        while !rest.is_empty() {
            let taken = tls.read_tls(&mut rest).map_err(Failure::Io)?;
            let state = match tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // The alert that says why; the connection ends in any case.
                    let _ = tls.write_tls(&mut self.socket);
                    return Err(Failure::Tls(tls::explain(&error)));
                }
            };
            let length = plain.len();
            let more = state.plaintext_bytes_to_read();
            plain.resize(length + more, 0);
            tls.reader().read_exact(&mut plain[length..]).map_err(Failure::Io)?;
            if taken == 0 && more == 0 {
                break;
            }
        }
        self.take_tls()?;
        Ok(count)
    }

    /// Writes `out`, which is empty afterwards, as far as the socket takes it: true when nothing waits. One write, when that is enough.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if self.wire.is_empty() && self.tls.is_none() && self.ws.is_none() {
            // The two buffers change places: nothing is copied.
            std::mem::swap(&mut self.wire, out);
        } else if !out.is_empty() {
            if let Some(ws) = &mut self.ws {
                let mut framed = Vec::new();
                // Without TLS the frame goes where the bytes for the socket are.
                let to = if self.tls.is_some() { &mut framed } else { &mut self.wire };
                ws.send(out, to);
                if self.tls.is_some() {
                    self.seal(&framed)?;
                }
            } else {
                self.seal(out)?;
            }
            out.clear();
        }
        while self.written < self.wire.len() {
            match (&self.socket).write(&self.wire[self.written..]) {
                Ok(0) => return Err(Failure::Io(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        self.wire.clear();
        self.written = 0;
        Ok(true)
    }

    /// What waits for the socket.
    pub(crate) fn waiting(&self) -> usize {
        self.wire.len() - self.written
    }

    /// Whether a handshake has something to say.
    pub(crate) fn has_answer(&self) -> bool {
        self.waiting() > 0
    }

    /// Gives up the memory of buffers, for a connection that is quiet.
    pub(crate) fn shrink(&mut self) {
        if self.wire.is_empty() {
            self.wire = Vec::new();
        }
    }

    /// Says that nothing more comes, as far as the socket takes it at once.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        // The connection ends in any case: nobody is left to be told of an error.
        let _ = self.flush(out);
        if let Some(ws) = &mut self.ws {
            let mut last = Vec::new();
            ws.close(&mut last);
            let _ = self.seal(&last);
        }
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.take_tls();
        let _ = self.flush(out);
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Bytes of WebSocket or MQTT become bytes for the socket.
    fn seal(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.tls {
            Some(tls) => {
                tls.writer().write_all(bytes).map_err(Failure::Io)?;
                self.take_tls()
            }
            None => {
                self.wire.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn take_tls(&mut self) -> Result<(), Failure> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.wire).map_err(Failure::Io)?;
            }
        }
        Ok(())
    }
}

/// Linux' number of "operation now in progress".
const EINPROGRESS: i32 = 115;

/// One read into the spare capacity. "Nothing there" counts as a byte: only 0 is the end.
fn read_into(socket: &TcpStream, to: &mut Vec<u8>) -> Result<usize, Failure> {
    to.reserve(READ);
    match rustix::io::read(socket, rustix::buffer::spare_capacity(to)) {
        Ok(count) => Ok(count),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(1),
        Err(error) => Err(Failure::Io(error.into())),
    }
}
