#![allow(clippy::unwrap_used)]

mod control;
mod fake;
mod health;

/// Status and body of an answer.
fn parse(answer: &[u8]) -> (u16, serde_json::Value) {
    let text = String::from_utf8_lossy(answer);
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}
