//! The way that bytes take to a peer: straight to it, or by another node. No protocol.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What the TLS connection to a peer runs over.
pub(crate) enum Path {
    Direct(TcpStream),
    /// Through a node that passes bytes on as they are: it reads nothing of what the two say.
    Relayed(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Path {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Path::Direct(stream) => Pin::new(stream).poll_read(context, buf),
            Path::Relayed(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Path {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Path::Direct(stream) => Pin::new(stream).poll_write(context, buf),
            Path::Relayed(stream) => Pin::new(stream).poll_write(context, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Path::Direct(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
            Path::Relayed(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Path::Direct(stream) => stream.is_write_vectored(),
            Path::Relayed(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Path::Direct(stream) => Pin::new(stream).poll_flush(context),
            Path::Relayed(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Path::Direct(stream) => Pin::new(stream).poll_shutdown(context),
            Path::Relayed(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
