//! The layers of one connection, one on the other: PROXY header, TLS, WebSocket.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::ServerConfig;

use crate::PeerInfo;
use crate::peer::canonical;
use crate::proxy::{ProxyDecoder, ProxyError, Versions};
use crate::tls::{Tls, TlsError, TlsPeer};
use crate::ws::{CloseCode, Ws, WsError, WsSettings};

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its PROXY header.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// WebSocket.
    #[error(transparent)]
    Ws(#[from] WsError),
}

/// What bytes from the socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// More may come.
    Open,
    /// The client has ended its stream, as the end of TCP's does; what came before it counts.
    Closed,
}

/// The state of the layers that a connection has.
#[derive(Debug)]
pub struct Layers {
    proxy: Option<ProxyDecoder>,
    tls: Option<Tls>,
    ws: Option<Ws>,
}

impl Layers {
    /// At the start of a connection. `None`: there is nothing between the socket and MQTT.
    ///
    /// # Errors
    /// [`TlsError`]: rustls does not take the configuration.
    pub fn new(
        proxy: Option<Versions>,
        tls: Option<Arc<ServerConfig>>,
        ws: Option<Arc<WsSettings>>,
    ) -> Result<Option<Self>, TlsError> {
        let layers =
            Self { proxy: proxy.map(ProxyDecoder::new), tls: tls.map(Tls::new).transpose()?, ws: ws.map(Ws::new) };
        Ok((!layers.is_nothing()).then_some(layers))
    }

    /// Whether nothing is left between the socket and MQTT: a PROXY header comes once, and then the layers can go.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.ws.is_none()
    }

    /// Whether all handshakes are done and nothing was closed: MQTT can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.proxy.is_none() && self.tls.as_ref().is_none_or(Tls::is_open) && self.ws.as_ref().is_none_or(Ws::is_open)
    }

    /// Whether the PROXY header that says where the connection comes from has not come yet.
    #[must_use]
    pub const fn awaits_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// Takes bytes from the socket, however they are split. Bytes of MQTT are appended to `plain`
    /// (also those before an error), answers of the layers for the socket to `out`, and what they learn goes to `peer`.
    ///
    /// # Errors
    /// [`LayerError`]: nothing more is to be read; `out` may hold what the client is to be told.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        peer: &mut PeerInfo,
    ) -> Result<Received, LayerError> {
        if let Some(proxy) = &mut self.proxy {
            let Some((header, length)) = proxy.receive(bytes)? else {
                return Ok(Received::Open);
            };
            self.proxy = None;
            bytes = &bytes[length..];
            if let Some(source) = header.source {
                peer.address = canonical(source);
            }
            if header.server_name.is_some() || header.common_name.is_some() {
                let tls = peer.tls.get_or_insert_default();
                (tls.server_name, tls.common_name) = (header.server_name, header.common_name);
            }
        }
        let start = plain.len();
        let mut ended = match &mut self.tls {
            Some(tls) => {
                let known = peer.tls.get_or_insert_default();
                let ended = tls.receive(bytes, plain, out, known).map_err(LayerError::from);
                if **known == TlsPeer::default() {
                    peer.tls = None;
                }
                ended
            }
            None => {
                plain.extend_from_slice(bytes);
                Ok(false)
            }
        };
        if let Some(ws) = &mut self.ws
            && plain.len() > start
        {
            match &mut self.tls {
                None => {
                    let closed = ws.receive(plain, start, out);
                    ended = ended.and_then(|before| Ok(before | closed?));
                }
                Some(tls) => {
                    let mut answers = Vec::new();
                    let closed = ws.receive(plain, start, &mut answers);
                    if !answers.is_empty() && tls.is_open() {
                        tls.send(&answers, out)?;
                    }
                    ended = ended.and_then(|before| Ok(before | closed?));
                }
            }
        }
        ended.map(|closed| if closed { Received::Closed } else { Received::Open })
    }

    /// Appends what carries these bytes of MQTT to `out`. Only once [`Layers::is_open`].
    ///
    /// # Errors
    /// [`LayerError`]: nothing more can be sent.
    pub fn send(&mut self, mqtt: &[u8], out: &mut Vec<u8>) -> Result<(), LayerError> {
        match (&mut self.tls, &self.ws) {
            (None, None) => out.extend_from_slice(mqtt),
            (None, Some(ws)) => {
                ws.frame(mqtt.len(), out);
                out.extend_from_slice(mqtt);
            }
            (Some(tls), None) => tls.send(mqtt, out)?,
            (Some(tls), Some(ws)) => {
                let mut framed = Vec::with_capacity(mqtt.len() + 10);
                ws.frame(mqtt.len(), &mut framed);
                framed.extend_from_slice(mqtt);
                tls.send(&framed, out)?;
            }
        }
        Ok(())
    }

    /// Appends what says that nothing more is sent: a close frame, then `close_notify`. Once; later calls do nothing.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let mut last = Vec::new();
        if let Some(ws) = &mut self.ws {
            ws.close(CloseCode::Normal, &mut last);
        }
        match &mut self.tls {
            None => out.extend_from_slice(&last),
            Some(tls) => {
                if !last.is_empty() && tls.is_open() {
                    // An error: the connection ends without a word.
                    let _ = tls.send(&last, out);
                }
                tls.close(out);
            }
        }
    }
}
