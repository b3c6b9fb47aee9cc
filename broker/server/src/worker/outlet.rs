//! What waits to be written to one client's socket, and the layers between it and MQTT.

use std::io;
use std::task::Waker;

use raftmq_mqtt::PacketType;
use raftmq_transport::{LayerError, Layers, PeerInfo, Received};

use super::socket::Socket;

/// A buffer that is kept for the next use is not larger than this.
const KEEP: usize = 64 * 1024;
/// Buffers kept.
const SPARES: usize = 64;
/// Bytes of MQTT that go through the layers at a time: with what the layers add, the buffer is one that is kept.
const PIECE: usize = 32 * 1024;

/// Encoded packets for a socket. Owns memory only while something waits.
#[derive(Default)]
pub(crate) struct Outlet {
    bytes: Vec<u8>,
    written: usize,
    /// Up to here packets were counted: whole ones, as they are appended.
    counted: usize,
    /// What waits may begin in the middle of a packet, whose first part the socket has.
    begun: bool,
    /// The socket takes no more for now: its task waits for room.
    pub(crate) blocked: bool,
    /// `None`: nothing is between the socket and MQTT.
    layered: Option<Box<Layered>>,
}

/// Layers, and what they have for the socket.
pub(crate) struct Layered {
    layers: Layers,
    wire: Vec<u8>,
    written: usize,
    /// Nothing more goes through the layers.
    closed: bool,
}

impl Layered {
    fn waits(&self) -> usize {
        self.wire.len() - self.written
    }

    fn release(&mut self, spares: &mut Spares) {
        if self.waits() == 0 {
            self.written = 0;
            spares.put(std::mem::take(&mut self.wire));
        }
    }

    /// A client that never takes all, and makes the layers answer, must not keep what it has read.
    fn forget_written(&mut self) {
        if self.written >= KEEP {
            self.wire.drain(..self.written);
            self.written = 0;
        }
    }
}

/// Buffers of a worker that are free, so that a busy connection does not allocate at each turn.
#[derive(Default)]
pub(crate) struct Spares(Vec<Vec<u8>>);

impl Spares {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn put(&mut self, mut spare: Vec<u8>) {
        if self.0.len() < SPARES && spare.capacity() <= KEEP && spare.capacity() > 0 {
            spare.clear();
            self.0.push(spare);
        }
    }
}

impl Outlet {
    /// Of a connection with these layers.
    pub(crate) fn new(layers: Option<Layers>) -> Self {
        let layered = |layers| Box::new(Layered { layers, wire: Vec::new(), written: 0, closed: false });
        Self { layered: layers.map(layered), ..Self::default() }
    }

    /// Of a connection that comes from another worker.
    pub(crate) fn adopt(layered: Option<Box<Layered>>) -> Self {
        Self { layered, ..Self::default() }
    }

    /// The layers with all that they have, for another worker.
    pub(crate) fn into_layered(self) -> Option<Box<Layered>> {
        self.layered
    }

    /// Whether bytes of the socket go through [`Outlet::receive`].
    pub(crate) const fn has_layers(&self) -> bool {
        self.layered.is_some()
    }

    /// Whether a balancer has not said yet where the connection comes from.
    pub(crate) fn awaits_proxy(&self) -> bool {
        self.layered.as_ref().is_some_and(|layered| layered.layers.awaits_proxy())
    }

    /// Takes bytes of the socket through the layers: `plain` gets what they carry of MQTT, also before an error; what the layers
    /// answer waits here.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        peer: &mut PeerInfo,
        spares: &mut Spares,
    ) -> Result<Received, LayerError> {
        let Some(layered) = &mut self.layered else {
            plain.extend_from_slice(bytes);
            return Ok(Received::Open);
        };
        if layered.wire.capacity() == 0 {
            layered.wire = spares.take();
        }
        let received = layered.layers.receive(bytes, plain, &mut layered.wire, peer);
        layered.release(spares);
        if layered.layers.is_nothing() {
            self.layered = None;
        }
        received
    }

    /// The buffer to append to.
    pub(crate) fn buffer(&mut self, spares: &mut Spares) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0
            && let Some(spare) = spares.0.pop()
        {
            self.bytes = spare;
        }
        &mut self.bytes
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written + self.layered.as_ref().map_or(0, |layered| layered.waits())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls with the type of each packet that was appended since the last time.
    pub(crate) fn count_packets(&mut self, mut each: impl FnMut(PacketType)) {
        while let Some([first, rest @ ..]) = self.bytes.get(self.counted..) {
            let mut length = 0;
            let mut digits = 0;
            for digit in rest.iter().take(4) {
                length |= usize::from(digit & 0x7F) << (7 * digits);
                digits += 1;
                if digit & 0x80 == 0 {
                    break;
                }
            }
            if let Some(packet) = PacketType::from_u8(first >> 4) {
                each(packet);
            }
            self.counted += 1 + digits + length;
        }
    }

    /// The last `length` bytes are one packet, which the caller counts. False: others before it are not counted yet, and it is
    /// counted with them.
    pub(crate) fn is_counted(&mut self, length: usize) -> bool {
        let alone = self.counted + length == self.bytes.len();
        if alone {
            self.counted = self.bytes.len();
        }
        alone
    }

    /// Whether a connection that closes has nothing left to say, the layers' last words included.
    pub(crate) fn is_done(&self) -> bool {
        self.is_empty() && self.layered.as_ref().is_none_or(|layered| layered.closed)
    }

    /// Drops what waits: the connection is gone.
    pub(crate) fn clear(&mut self) {
        self.clear_packets();
        self.blocked = false;
        if let Some(layered) = &mut self.layered {
            layered.wire = Vec::new();
            layered.written = 0;
            layered.closed = true;
        }
    }

    /// Drops the packets that wait: nobody reads them any more. What the layers have to say stays.
    pub(crate) fn clear_packets(&mut self) {
        self.bytes = Vec::new();
        self.written = 0;
        self.counted = 0;
        self.begun = false;
    }

    /// Drops the packets that wait, if the first of them can be left out. Otherwise they stay: the socket has a part of it, or it is the CONNACK, which nothing
    /// may be before `[MQTT-3.2.0-1]`.
    pub(crate) fn drop_unbegun(&mut self) {
        let first = self.bytes.first().and_then(|first| PacketType::from_u8(first >> 4));
        if !self.begun && first != Some(PacketType::ConnAck) {
            self.clear_packets();
        }
    }

    /// Gives the buffer back when nothing waits.
    pub(crate) fn release(&mut self, spares: &mut Spares) {
        if self.written == self.bytes.len() {
            self.written = 0;
            self.counted = 0;
            self.begun = false;
            spares.put(std::mem::take(&mut self.bytes));
        }
    }

    /// Whether it holds memory.
    #[cfg(test)]
    pub(crate) fn has_buffer(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Writes as much as the socket takes; returns how many bytes of the socket that was. With `closing` it is the last that is
    /// written.
    pub(crate) fn write(
        &mut self,
        socket: &Socket,
        waker: Option<&Waker>,
        closing: bool,
        spares: &mut Spares,
    ) -> io::Result<usize> {
        self.blocked = false;
        let count = if self.layered.is_some() {
            self.write_layered(socket, waker, closing, spares)?
        } else {
            let before = self.written;
            self.blocked = !push(socket, waker, &self.bytes, &mut self.written)?;
            self.written - before
        };
        self.begun |= self.written > 0;
        if self.written == self.bytes.len() {
            self.release(spares);
        } else if self.written >= KEEP {
            // A slow reader must not keep what it has read.
            self.bytes.drain(..self.written);
            self.counted = self.counted.saturating_sub(self.written);
            self.written = 0;
        }
        Ok(count)
    }

    fn write_layered(
        &mut self,
        socket: &Socket,
        waker: Option<&Waker>,
        closing: bool,
        spares: &mut Spares,
    ) -> io::Result<usize> {
        let Some(layered) = &mut self.layered else {
            return Ok(0);
        };
        let mut count = 0;
        loop {
            let before = layered.written;
            let all = push(socket, waker, &layered.wire, &mut layered.written)?;
            count += layered.written - before;
            if !all {
                self.blocked = true;
                layered.forget_written();
                return Ok(count);
            }
            layered.release(spares);
            let open = layered.layers.is_open();
            if closing && !open {
                // Handshakes that are not done, or a client that has closed: nobody reads it.
                self.written = self.bytes.len();
            }
            let waiting = &self.bytes[self.written..];
            if waiting.is_empty() {
                if !closing || layered.closed {
                    return Ok(count);
                }
                layered.closed = true;
                layered.layers.close(&mut layered.wire);
            } else if open {
                let piece = &waiting[..waiting.len().min(PIECE)];
                if layered.wire.capacity() == 0 {
                    layered.wire = spares.take();
                }
                layered.layers.send(piece, &mut layered.wire).map_err(io::Error::other)?;
                self.written += piece.len();
            } else {
                return Ok(count);
            }
        }
    }
}

/// Writes from `written` on; false when the socket takes no more for now.
fn push(socket: &Socket, waker: Option<&Waker>, bytes: &[u8], written: &mut usize) -> io::Result<bool> {
    while *written < bytes.len() {
        match socket.try_write(&bytes[*written..], waker) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_buffer_that_was_not_used_goes_back() {
        let mut spares = Spares(vec![Vec::with_capacity(1_024)]);
        let mut outlet = Outlet::default();
        assert_eq!(outlet.buffer(&mut spares).capacity(), 1_024);
        assert!(spares.0.is_empty());
        outlet.release(&mut spares);
        assert!(!outlet.has_buffer());
        assert_eq!(spares.0.len(), 1);
        outlet.buffer(&mut spares).push(1);
        outlet.release(&mut spares);
        assert_eq!(outlet.len(), 1, "what waits stays");
    }

    /// Pings are answered while the answers before them wait.
    #[tokio::test]
    async fn a_client_that_never_takes_all_keeps_nothing_that_it_has_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        // So that the socket never takes all that waits.
        socket2::SockRef::from(&server).set_send_buffer_size(16 * 1024).unwrap();
        socket2::SockRef::from(&client).set_recv_buffer_size(16 * 1024).unwrap();
        let socket = Socket::Tcp(server);
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 16 * 1024];
            while matches!(std::io::Read::read(&mut client, &mut chunk), Ok(1..)) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let mut peer = PeerInfo::new(peer, raftmq_transport::Transport::Ws);
        let settings = std::sync::Arc::new(raftmq_transport::ws::WsSettings { path: "/mqtt".into() });
        let mut outlet = Outlet::new(Layers::new(None, None, Some(settings)).unwrap());
        let (mut plain, mut spares) = (Vec::new(), Spares::default());
        let request = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
        outlet.receive(request, &mut plain, &mut peer, &mut spares).unwrap();
        // A masked ping of 125 bytes, 500 times: 63,500 bytes of answers.
        let pings = [&[0x89, 0xFD, 0, 0, 0, 0][..], &[7; 125]].concat().repeat(500);
        let (mut largest, mut written) = (0, 0);
        while written < 2 << 20 {
            while outlet.len() < 256 * 1024 {
                outlet.receive(&pings, &mut plain, &mut peer, &mut spares).unwrap();
            }
            written += outlet.write(&socket, None, false, &mut spares).unwrap();
            assert!(outlet.blocked, "the client was to be slow");
            socket.writable().await;
            largest = largest.max(outlet.layered.as_ref().unwrap().wire.capacity());
        }
        drop(socket);
        reader.join().unwrap();
        assert!(largest < 1 << 20, "{largest} bytes are kept");
    }

    #[tokio::test]
    async fn connack_and_what_the_socket_has_a_part_of_are_not_left_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let socket = Socket::Tcp(server);
        let (mut outlet, mut spares) = (Outlet::default(), Spares::default());
        outlet.buffer(&mut spares).extend_from_slice(&[0x40, 2, 0, 1]);
        outlet.drop_unbegun();
        assert!(outlet.is_empty());
        let connack = [0x20, 3, 0, 0, 0];
        outlet.buffer(&mut spares).extend_from_slice(&connack);
        outlet.drop_unbegun();
        assert_eq!(outlet.len(), connack.len());
        outlet.clear_packets();
        // More than any socket takes at once.
        let packet = [&[0x30, 0x80, 0x80, 0x80, 0x04][..], &vec![0; 8 << 20]].concat();
        outlet.buffer(&mut spares).extend_from_slice(&packet);
        socket.writable().await;
        let written = outlet.write(&socket, None, false, &mut spares).unwrap();
        let waits = packet.len() - written;
        assert!(waits > 0 && written > 0);
        outlet.drop_unbegun();
        assert_eq!(outlet.len(), waits);
        let reader = std::thread::spawn(move || std::io::Read::read_exact(&mut client, &mut vec![0; 5 + (8 << 20)]));
        while !outlet.is_empty() {
            socket.writable().await;
            outlet.write(&socket, None, false, &mut spares).unwrap();
        }
        reader.join().unwrap().unwrap();
        // The next one is whole again.
        outlet.buffer(&mut spares).extend_from_slice(&[0x40, 2, 0, 1]);
        outlet.drop_unbegun();
        assert!(outlet.is_empty());
    }

    #[test]
    fn packets_are_counted_once() {
        let mut outlet = Outlet::default();
        let mut spares = Spares::default();
        let count = |outlet: &mut Outlet| {
            let mut all = Vec::new();
            outlet.count_packets(|packet| all.push(packet));
            all
        };
        let large = [&[0x30, 0x80, 0x01][..], &[0; 128]].concat();
        outlet.buffer(&mut spares).extend_from_slice(&[&[0xD0, 0][..], &large].concat());
        assert_eq!(count(&mut outlet), [PacketType::PingResp, PacketType::Publish]);
        outlet.buffer(&mut spares).extend_from_slice(&[0x40, 2, 0, 1]);
        assert_eq!(count(&mut outlet), [PacketType::PubAck]);
        assert_eq!(count(&mut outlet), []);
        // One that its writer counts, alone and behind another.
        outlet.buffer(&mut spares).extend_from_slice(&large);
        assert!(outlet.is_counted(large.len()));
        outlet.buffer(&mut spares).extend_from_slice(&[&[0x40, 2, 0, 2], &large[..]].concat());
        assert!(!outlet.is_counted(large.len()));
        assert_eq!(count(&mut outlet), [PacketType::PubAck, PacketType::Publish]);
    }
}
