//! Reading and writing frames on a connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};

use crate::frame::{self, Decoded, Frame, FrameError, FrameType};
use crate::hello::Hello;
use crate::metrics::ClassMetrics;

/// Frames are put together up to this size, then written.
const BATCH_BYTES: usize = 128 << 10;
/// Payloads from this size on are written from where they are.
const LARGE_BYTES: usize = 32 << 10;
/// Room made for reading; a TLS record brings at most 16 KiB at once.
const READ_BYTES: usize = 32 << 10;
/// What an idle connection keeps of its write buffer.
const IDLE_BYTES: usize = 4 << 10;

/// What one wake-up of the writer writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    buf: Vec<u8>,
    large: Option<Bytes>,
    frames: u64,
}

impl Batch {
    pub(crate) fn is_full(&self) -> bool {
        self.large.is_some() || self.buf.len() >= BATCH_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Where the header of a frame of traffic goes; its [`Batch::payload`] must follow.
    pub(crate) fn header(&mut self) -> &mut Vec<u8> {
        self.frames += 1;
        &mut self.buf
    }

    pub(crate) fn payload(&mut self, payload: Bytes) {
        if payload.len() >= LARGE_BYTES {
            self.large = Some(payload);
        } else {
            self.buf.extend_from_slice(&payload);
        }
    }

    pub(crate) fn push(&mut self, frame: &Frame) {
        if frame.frame_type.is_traffic() {
            self.frames += 1;
        }
        frame::encode_header(&mut self.buf, frame.frame_type, frame.kind, frame.flags, frame.id, frame.payload.len());
        self.payload(frame.payload.clone());
    }

    #[cfg(test)]
    pub(crate) fn bytes_for_tests(&self) -> &[u8] {
        &self.buf
    }

    fn bytes(&self) -> u64 {
        (self.buf.len() + self.large.as_ref().map_or(0, Bytes::len)) as u64
    }

    fn clear(&mut self) {
        self.buf.clear();
        self.large = None;
        self.frames = 0;
    }
}

/// Writes until an error. `fill` appends what waits (and is called again until it appends nothing); `notify` wakes it. A changed
/// Hello goes out before what was queued after the change. `progress` hears of each part of a large payload that the socket
/// took: the peer says nothing until it has all of it. Once `left` is set it ends when what it has begun is written.
pub(crate) async fn write_loop<W: AsyncWrite + Unpin>(
    mut io: W,
    notify: &Notify,
    mut hello: watch::Receiver<Arc<Hello>>,
    metrics: &ClassMetrics,
    left: &AtomicBool,
    mut fill: impl FnMut(&mut Batch),
    progress: impl Fn(),
) -> io::Result<()> {
    let mut batch = Batch::default();
    loop {
        batch.clear();
        if left.load(Ordering::Relaxed) {
            return Ok(());
        }
        fill(&mut batch);
        // After filling: whatever is in the batch was queued before or after the change, never before it only.
        if hello.has_changed().unwrap_or(false) {
            let payload = hello.borrow_and_update().encode();
            let mut out = Vec::with_capacity(frame::HEADER_BYTES + payload.len());
            Frame::new(FrameType::Hello, 0).with_payload(payload).encode(&mut out);
            io.write_all(&out).await?;
            io.flush().await?;
        }
        if batch.is_empty() {
            if batch.buf.capacity() > IDLE_BYTES {
                batch.buf = Vec::new();
            }
            tokio::select! {
                () = notify.notified() => {}
                changed = hello.changed() => match changed {
                    Ok(()) => hello.mark_changed(),
                    Err(_) => return Err(io::Error::other("shut down")),
                }
            }
            continue;
        }
        metrics.frames_out.fetch_add(batch.frames, Ordering::Relaxed);
        metrics.bytes_out.fetch_add(batch.bytes(), Ordering::Relaxed);
        metrics.writes.fetch_add(1, Ordering::Relaxed);
        io.write_all(&batch.buf).await?;
        if let Some(large) = batch.large.take() {
            for part in large.chunks(LARGE_BYTES) {
                io.write_all(part).await?;
                progress();
            }
        }
        io.flush().await?;
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")
}

/// Bytes read and not yet taken as frames.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    buf: BytesMut,
    max_payload: usize,
    need: usize,
    /// A frame larger than the usual room was taken: what follows it would keep its memory.
    outgrown: bool,
}

impl FrameBuffer {
    pub(crate) fn new(max_payload: usize) -> Self {
        FrameBuffer { buf: BytesMut::new(), max_payload, need: frame::HEADER_BYTES, outgrown: false }
    }

    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.max_payload = max_payload;
    }

    /// Whether nothing is left of what was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Reads once. An end of the stream is an error.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> io::Result<usize> {
        // Room grows with what has arrived, not with what a header claims.
        let missing = self.need.saturating_sub(self.buf.len());
        if self.buf.capacity() - self.buf.len() < missing.clamp(2048, READ_BYTES) {
            self.buf.reserve(missing.min(self.buf.len()).max(READ_BYTES));
        }
        match io.read_buf(&mut self.buf).await {
            // A process that dies says no goodbye: TLS reports it by a text of its own.
            Ok(0) => Err(closed()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(closed()),
            read => read,
        }
    }

    /// The next whole frame.
    pub(crate) fn pop(&mut self) -> Result<Option<Frame>, FrameError> {
        match frame::decode(&mut self.buf, self.max_payload)? {
            Decoded::Frame(frame) => {
                self.outgrown |= frame.payload.len() > READ_BYTES;
                Ok(Some(frame))
            }
            Decoded::Incomplete(need) => {
                self.need = need;
                if std::mem::take(&mut self.outgrown) {
                    self.buf = BytesMut::from(&self.buf[..]);
                }
                Ok(None)
            }
        }
    }

    /// Reads until a frame is there; for handshakes.
    pub(crate) async fn next<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> io::Result<Frame> {
        loop {
            match self.pop() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            self.fill(io).await?;
        }
    }
}

/// Writes one frame; for handshakes.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(io: &mut W, frame: &Frame) -> io::Result<()> {
    let mut out = Vec::with_capacity(frame::HEADER_BYTES + frame.payload.len());
    frame.encode(&mut out);
    io.write_all(&out).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::HEADER_BYTES;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    #[tokio::test]
    async fn a_large_payload_shows_its_progress_and_leaves_no_buffer() {
        let (near, mut far) = tokio::io::duplex(4096);
        let large = Frame::new(FrameType::Answer, 7).with_payload(vec![9; 10 * LARGE_BYTES]);
        let small = Frame::new(FrameType::Answer, 8).with_payload(&b"x"[..]);
        let mut queue = vec![small.clone(), large.clone()];
        let progress = AtomicUsize::new(0);
        let hello = watch::Sender::new(Arc::new(Hello::new("c", "n", 1, 1)));
        let (notify, metrics) = (Notify::new(), ClassMetrics::default());
        let left = AtomicBool::new(false);
        let write = write_loop(
            near,
            &notify,
            hello.subscribe(),
            &metrics,
            &left,
            |batch| {
                while !batch.is_full()
                    && let Some(frame) = queue.pop()
                {
                    batch.push(&frame);
                }
            },
            || {
                progress.fetch_add(1, Ordering::Relaxed);
            },
        );
        let read = async {
            let mut buffer = FrameBuffer::new(1 << 20);
            let first = buffer.next(&mut far).await.unwrap();
            let second = buffer.next(&mut far).await.unwrap();
            assert!(matches!(buffer.pop(), Ok(None)));
            (first, second, buffer.buf.capacity())
        };
        let (first, second, kept) = tokio::select! {
            read = tokio::time::timeout(Duration::from_secs(10), read) => read.unwrap(),
            written = write => panic!("the writer ended: {written:?}"),
        };
        assert_eq!((first, second), (large, small));
        assert_eq!(progress.load(Ordering::Relaxed), 10);
        assert!(kept < 2 * READ_BYTES, "{kept} bytes kept for an idle reader");
        assert_eq!(metrics.writes.load(Ordering::Relaxed), 2);
        let bytes = 2 * HEADER_BYTES + 10 * LARGE_BYTES + 1;
        assert_eq!(metrics.bytes_out.load(Ordering::Relaxed), bytes as u64);
    }
}
