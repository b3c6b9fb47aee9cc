//! The request that makes a WebSocket of a connection (RFC 6455, section 4.2; MQTT 5.0 section 6.0).

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a listener offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WsSettings {
    /// The path of the request, `/mqtt`; a query behind it is ignored.
    pub path: String,
}

/// Longest request that is taken. Browsers send their cookies along.
const LONGEST: usize = 16 * 1024;
/// Header fields of a request that are taken.
const FIELDS: usize = 64;
/// What the server's proof is made with (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Subprotocols by preference: MQTT's own [MQTT-6.0.0-4] [MQTT311-6.0.0-4], and the one of the clients of MQTT 3.1.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Why a request is not answered with an upgrade. The client is told by an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It is not HTTP.
    #[error("the request is not HTTP")]
    NotHttp,
    /// The request is too long, or has too many fields.
    #[error("the request is too long")]
    TooLong,
    /// Another method than GET.
    #[error("the method is not GET")]
    Method,
    /// HTTP/1.0.
    #[error("HTTP/1.1 is needed")]
    Version,
    /// Another path than the listener's.
    #[error("another path than the listener's")]
    Path,
    /// A request for something else than a WebSocket.
    #[error("the request is not one for a WebSocket")]
    NotWebSocket,
    /// Another version of WebSocket than 13.
    #[error("another version of WebSocket than 13")]
    WebSocketVersion,
    /// `Host` or `Sec-WebSocket-Key` is missing, wrong or there twice.
    #[error("a header field is missing or wrong")]
    Field,
    /// The subprotocol `mqtt` is not offered [MQTT-6.0.0-3].
    #[error("the subprotocol mqtt is not offered")]
    Protocol,
}

impl UpgradeError {
    const fn status(self) -> &'static str {
        match self {
            Self::NotHttp | Self::NotWebSocket | Self::Field | Self::Protocol => "400 Bad Request",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Method => "405 Method Not Allowed",
            Self::Version => "505 HTTP Version Not Supported",
            Self::Path => "404 Not Found",
            Self::WebSocketVersion => "426 Upgrade Required",
        }
    }

    /// Fields that the status asks for.
    const fn fields(self) -> &'static str {
        match self {
            Self::Method => "Allow: GET\r\n",
            Self::WebSocketVersion => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    Incomplete,
    /// Answered; the request was so long.
    Done {
        length: usize,
    },
}

/// Answers a request once it is complete, for better or for worse.
pub(super) fn answer(bytes: &[u8], settings: &WsSettings, out: &mut Vec<u8>) -> Result<Upgrade, UpgradeError> {
    match read(bytes, settings) {
        Ok(None) => Ok(Upgrade::Incomplete),
        Ok(Some(Accepted { length, key, protocol })) => {
            let proof = prove(key);
            out.extend_from_slice(
                format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {proof}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
                )
                .as_bytes(),
            );
            Ok(Upgrade::Done { length })
        }
        Err(error) => {
            // What does not begin like HTTP is not answered in HTTP.
            if error != UpgradeError::NotHttp {
                refuse(error, out);
            }
            Err(error)
        }
    }
}

fn refuse(error: UpgradeError, out: &mut Vec<u8>) {
    let body = format!("{error}\n");
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "HTTP/1.1 {}\r\n{}Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        error.status(),
        error.fields(),
        body.len(),
    );
    out.extend_from_slice(text.as_bytes());
}

struct Accepted<'a> {
    length: usize,
    key: &'a [u8],
    protocol: &'static str,
}

fn read<'a>(bytes: &'a [u8], settings: &WsSettings) -> Result<Option<Accepted<'a>>, UpgradeError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(&bytes[..bytes.len().min(LONGEST)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(UpgradeError::TooLong),
        Err(_) => return Err(UpgradeError::NotHttp),
    };
    if request.method != Some("GET") {
        return Err(UpgradeError::Method);
    }
    if request.version != Some(1) {
        return Err(UpgradeError::Version);
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(settings.path.as_str()) {
        return Err(UpgradeError::Path);
    }
    let fields = Fields(request.headers);
    if !fields.lists("upgrade", "websocket") || !fields.lists("connection", "upgrade") {
        return Err(UpgradeError::NotWebSocket);
    }
    if fields.only("sec-websocket-version").map(<[u8]>::trim_ascii) != Some(b"13") {
        return Err(UpgradeError::WebSocketVersion);
    }
    fields.only("host").ok_or(UpgradeError::Field)?;
    let key = fields.only("sec-websocket-key").map(<[u8]>::trim_ascii).ok_or(UpgradeError::Field)?;
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(UpgradeError::Field);
    }
    let offered = |name: &&str| fields.all("sec-websocket-protocol").any(|token| token == name.as_bytes());
    let protocol = PROTOCOLS.into_iter().find(offered).ok_or(UpgradeError::Protocol)?;
    Ok(Some(Accepted { length, key, protocol }))
}

/// The header fields of a request; names in any case.
struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value of a field that may be there once.
    fn only(&self, name: &'static str) -> Option<&'b [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// The members of a field that is a list, over all its lines.
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> {
        self.values(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    fn lists(&self, name: &'static str, token: &str) -> bool {
        self.all(name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// The server's proof that it read the request (section 4.2.2).
fn prove(key: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    STANDARD.encode(context.finish())
}
