//! TLS 1.2 and 1.3 by rustls, without I/O: settings from PEM ([`TlsMaterial`]), the choice of a certificate by server name, and
//! the server's side of one connection ([`Tls`]).

mod connection;
mod material;
mod names;

#[cfg(test)]
pub(crate) mod tests;

pub use connection::{Tls, TlsError};
pub use material::{CertificatePem, ClientAuth, MinVersion, TlsConfigError, TlsConfigs, TlsMaterial};
pub use names::{TlsPeer, subject_of};
