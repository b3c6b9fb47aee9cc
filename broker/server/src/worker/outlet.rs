//! What waits to be written to one client's socket.

use std::io;

use raftmq_mqtt::PacketType;
use tokio::net::TcpStream;

/// A buffer that is kept for the next use is not larger than this.
const KEEP: usize = 64 * 1024;
/// Buffers kept.
const SPARES: usize = 64;

/// Encoded packets for a socket. Owns memory only while something waits.
#[derive(Default)]
pub(crate) struct Outlet {
    bytes: Vec<u8>,
    written: usize,
    /// Up to here packets were counted: whole ones, as they are appended.
    counted: usize,
    /// The socket takes no more for now: its task waits for room.
    pub(crate) blocked: bool,
}

/// Buffers of a worker that are free, so that a busy connection does not allocate at each turn.
#[derive(Default)]
pub(crate) struct Spares(Vec<Vec<u8>>);

impl Outlet {
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
        self.bytes.len() - self.written
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

    /// Drops what waits: the connection is gone.
    pub(crate) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.written = 0;
        self.counted = 0;
        self.blocked = false;
    }

    /// Gives the buffer back when nothing waits.
    pub(crate) fn release(&mut self, spares: &mut Spares) {
        if self.is_empty() {
            let mut spare = std::mem::take(&mut self.bytes);
            self.written = 0;
            self.counted = 0;
            if spares.0.len() < SPARES && spare.capacity() <= KEEP && spare.capacity() > 0 {
                spare.clear();
                spares.0.push(spare);
            }
        }
    }

    /// Whether it holds memory.
    #[cfg(test)]
    pub(crate) fn has_buffer(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Writes as much as the socket takes. Returns how much that was.
    pub(crate) fn write(&mut self, socket: &TcpStream, spares: &mut Spares) -> io::Result<usize> {
        let before = self.written;
        self.blocked = false;
        while self.written < self.bytes.len() {
            match socket.try_write(&self.bytes[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let count = self.written - before;
        if self.is_empty() {
            self.release(spares);
        } else if self.written >= KEEP {
            // A slow reader must not keep what it has read.
            self.bytes.drain(..self.written);
            self.counted = self.counted.saturating_sub(self.written);
            self.written = 0;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
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
    }
}
