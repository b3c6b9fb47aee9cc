//! The socket of one connection: one of TCP, or a stream of QUIC.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::quic::QuicStream;

/// Reads of what a client sent after the end of its connection.
const UNREAD_CHUNKS: usize = 16;

/// A socket in the reactor of a worker.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Quic(Box<RefCell<QuicStream>>),
}

/// A socket on its way from one worker to another.
pub(crate) enum Loose {
    Tcp(std::net::TcpStream),
    Quic(Box<RefCell<QuicStream>>),
}

impl Socket {
    /// Into this thread's reactor.
    pub(crate) fn settle(loose: Loose) -> io::Result<Self> {
        Ok(match loose {
            Loose::Tcp(socket) => Self::Tcp(TcpStream::from_std(socket)?),
            Loose::Quic(stream) => Self::Quic(stream),
        })
    }

    /// Out of this thread's reactor.
    pub(crate) fn loosen(self) -> io::Result<Loose> {
        Ok(match self {
            Self::Tcp(socket) => Loose::Tcp(socket.into_std()?),
            Self::Quic(stream) => Loose::Quic(stream),
        })
    }

    /// Whether the reactor says when it is ready. Streams of QUIC say so when they are read and written.
    pub(crate) const fn has_readiness(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Where its client is, if that may be another place than where it came from.
    pub(crate) fn moved_to(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_) => None,
            Self::Quic(stream) => Some(stream.borrow().address()),
        }
    }

    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(context).map(drop),
            Self::Quic(_) => Poll::Ready(()),
        }
    }

    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(context).map(drop),
            Self::Quic(_) => Poll::Ready(()),
        }
    }

    /// Reads without waiting. A stream of QUIC that has nothing wakes the task of `context` when that changes.
    pub(crate) fn try_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => try_read(socket, buffer),
            Self::Quic(stream) => ready(stream.borrow_mut().receive.poll_read(context, buffer).map_err(Into::into)),
        }
    }

    /// Reads what is there. Asked of the kernel: the reactor may not have run since it came.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => Ok(recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?.1),
            Self::Quic(_) => self.try_read(&mut Context::from_waker(Waker::noop()), buffer),
        }
    }

    /// Writes without waiting. A stream of QUIC that has no room wakes `waker` when that changes.
    pub(crate) fn try_write(&self, bytes: &[u8], waker: Option<&Waker>) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Quic(stream) => {
                let mut context = Context::from_waker(waker.unwrap_or(Waker::noop()));
                let mut stream = stream.borrow_mut();
                ready(Pin::new(&mut stream.send).poll_write(&mut context, bytes).map_err(Into::into))
            }
        }
    }

    /// Waits for room.
    #[cfg(test)]
    pub(crate) async fn writable(&self) {
        std::future::poll_fn(|context| self.poll_write_ready(context)).await;
    }

    /// Whether bytes of the client wait in the socket. Asked of the kernel: the reactor may not have run since they came.
    pub(crate) fn has_unread(&self) -> bool {
        let mut byte = [0u8];
        match self {
            Self::Tcp(socket) => {
                matches!(recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((1.., _)))
            }
            // They are counted as read when they are.
            Self::Quic(_) => false,
        }
    }

    /// Ends the stream to the client, then drops what is left of the stream from it: a socket closed over unread bytes would
    /// reset the connection, and the client might never see the packet that says why it is closed. Whether more may come.
    pub(crate) fn hang_up(&self, buffer: &mut [u8]) -> bool {
        let Self::Tcp(socket) = self else {
            // A stream of QUIC sees to it when it is dropped.
            return false;
        };
        // Errors: it is gone already.
        let _ = shutdown(socket, Shutdown::Write);
        for _ in 0..UNREAD_CHUNKS {
            match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((1.., _)) => {}
                Ok(_) => return false,
                Err(error) => return error == rustix::io::Errno::WOULDBLOCK,
            }
        }
        true
    }
}

/// A read that does not fill the buffer has taken all there was: the reactor tells of what comes then, and the socket need not be
/// asked once more to say that it is empty. (Readiness is by edges: what comes after the read is one, and so is the end of the stream.)
fn try_read(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let size = buffer.len();
    let mut short = None;
    let read = socket.try_io(Interest::READABLE, || match recv(socket, &mut *buffer, RecvFlags::empty())?.1 {
        count if count > 0 && count < size => {
            short = Some(count);
            // Not ready any more.
            Err(io::ErrorKind::WouldBlock.into())
        }
        count => Ok(count),
    });
    short.map_or(read, Ok)
}

fn ready(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
