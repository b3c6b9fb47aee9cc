//! The first 16 bytes of a payload: who sent it, which one it is, when it was due.

/// Bytes of a stamp.
pub(crate) const LENGTH: usize = 16;
/// Most publishers of a run: their number has 20 bits.
pub(crate) const MAX_PUBLISHERS: u32 = 1 << 20;

/// What a publisher says of a message. Numbers are little-endian; the time is of the monotonic clock, hence of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// 12 bits of the run, 20 bits of the publisher.
    pub(crate) sender: u32,
    /// The message's number, its lower 32 bits.
    pub(crate) sequence: u32,
    /// Nanoseconds.
    pub(crate) due: u64,
}

/// The sender field of a publisher.
pub(crate) const fn sender(run: u32, publisher: u32) -> u32 {
    (run << 20) | (publisher & (MAX_PUBLISHERS - 1))
}

/// The publisher of a sender field, when it is one of this run.
pub(crate) const fn publisher_of(sender: u32, run: u32) -> Option<u32> {
    if sender >> 20 == run & 0xFFF { Some(sender & (MAX_PUBLISHERS - 1)) } else { None }
}

impl Stamp {
    pub(crate) fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&self.sender.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&self.due.to_le_bytes());
        bytes
    }

    /// `None`: the payload is too short for one.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (sender, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            sender: u32::from_le_bytes(*sender),
            sequence: u32::from_le_bytes(*sequence),
            due: u64::from_le_bytes(*due),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { sender: sender(0xABCD_E123, 77), sequence: u32::MAX, due: u64::MAX - 1 };
        let mut payload = stamp.to_bytes().to_vec();
        payload.extend_from_slice(b"more");
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
        assert_eq!(publisher_of(stamp.sender, 0xABCD_E123), Some(77));
        assert_eq!(publisher_of(stamp.sender, 0xABCD_E124), None);
        assert_eq!(publisher_of(sender(5, MAX_PUBLISHERS - 1), 5), Some(MAX_PUBLISHERS - 1));
    }
}
