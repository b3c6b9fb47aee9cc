//! The PROXY protocol, versions 1 and 2: a load balancer says on whose behalf it connects.
//!
//! After haproxy's `doc/proxy-protocol.txt` (2020/03/05). The header is the first thing on the connection, before TLS,
//! once, and comes from the balancer only: a listener that expects it takes nobody without it.

mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

/// The longest header of version 2 that is taken, its 16 fixed bytes aside. What balancers add is a few hundred bytes.
const LONGEST_V2: usize = 4_096;

/// Which versions of the header a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
    /// Either.
    Any,
}

impl Versions {
    const fn v1(self) -> bool {
        matches!(self, Self::V1 | Self::Any)
    }

    const fn v2(self) -> bool {
        matches!(self, Self::V2 | Self::Any)
    }
}

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client's address. `None`: the balancer speaks for itself (a health check), or does not know.
    pub source: Option<SocketAddr>,
    /// The server name that the client asked the balancer for (version 2, `PP2_TYPE_AUTHORITY`).
    pub server_name: Option<Box<str>>,
    /// Common name of the certificate that the client showed to the balancer (version 2, `PP2_SUBTYPE_SSL_CN`), where
    /// the balancer says that it verified it.
    pub common_name: Option<Box<str>>,
}

/// Why what came is not a header that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes are those of something else.
    #[error("the connection does not begin with a PROXY header")]
    NoHeader,
    /// A header of a version that the listener does not take.
    #[error("the PROXY header has a version that this listener does not take")]
    OtherVersion,
    /// The line of version 1 is wrong or longer than 107 bytes.
    #[error("the PROXY line is malformed")]
    Line,
    /// A field of version 2 has no meaning, or its lengths contradict each other.
    #[error("the PROXY header of version 2 is malformed")]
    Binary,
    /// The header of version 2 is longer than is taken.
    #[error("the PROXY header is too long")]
    TooLong,
    /// The checksum of version 2 does not fit the header.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

/// The state of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far so good; more must come.
    Incomplete,
    /// The whole header, and its length.
    Header(Header, usize),
}

/// Reads a header from the first bytes of a connection.
///
/// # Errors
/// As soon as the bytes cannot be the beginning of one.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<Parsed, ProxyError> {
    if bytes.is_empty() {
        return Ok(Parsed::Incomplete);
    }
    if begins(bytes, v2::SIGNATURE) {
        if !versions.v2() {
            return Err(ProxyError::OtherVersion);
        }
        v2::parse(bytes)
    } else if begins(bytes, v1::SIGNATURE) {
        if !versions.v1() {
            return Err(ProxyError::OtherVersion);
        }
        v1::parse(bytes)
    } else {
        Err(ProxyError::NoHeader)
    }
}

/// Whether one is the beginning of the other.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

/// Reads the header at the start of a connection, however it is split.
#[derive(Debug)]
pub struct ProxyDecoder {
    versions: Versions,
    /// A header that is not complete; bounded by the longest one.
    partial: Vec<u8>,
}

impl ProxyDecoder {
    /// At the start of a connection.
    #[must_use]
    pub const fn new(versions: Versions) -> Self {
        Self { versions, partial: Vec::new() }
    }

    /// Takes bytes as they come. With the header: how many of them belong to it.
    ///
    /// # Errors
    /// [`ProxyError`]: the connection is to be closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
        let known = self.partial.len();
        // More than a header can take is not kept, only looked at.
        self.partial.extend_from_slice(&bytes[..bytes.len().min(LONGEST_V2 + v2::FIXED)]);
        match parse(&self.partial, self.versions)? {
            Parsed::Incomplete => Ok(None),
            Parsed::Header(header, length) => {
                self.partial = Vec::new();
                Ok(Some((header, length - known)))
            }
        }
    }
}
