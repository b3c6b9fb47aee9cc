//! Watches: what happened since a version, and what happens from now on.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use serde_json::{Value, json};

use super::is_selected;

#[derive(Default)]
pub(super) struct Watches {
    past: Vec<(u64, Happened)>,
    open: Vec<(String, String, UnboundedSender<Bytes>)>,
}

#[derive(Clone)]
struct Happened {
    type_: &'static str,
    path: String,
    object: Value,
}

impl Happened {
    fn line(&self, collection: &str, selector: &str) -> Option<Bytes> {
        let said = json!({"type": self.type_, "object": self.object});
        is_selected(&self.path, &self.object, collection, selector).then(|| Bytes::from(format!("{said}\n")))
    }
}

impl Watches {
    pub(super) fn happened(&mut self, version: u64, type_: &'static str, path: &str, object: &Value) {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let happened = Happened { type_, path: path.to_owned(), object };
        self.open.retain(|(collection, selector, sender)| {
            let line = happened.line(collection, selector);
            line.is_none_or(|line| sender.unbounded_send(line).is_ok())
        });
        self.past.push((version, happened));
    }

    pub(super) fn begin(&mut self, collection: &str, selector: &str, since: u64) -> Body {
        let (sender, receiver) = unbounded();
        for (_, happened) in self.past.iter().filter(|(version, _)| *version > since) {
            if let Some(line) = happened.line(collection, selector) {
                sender.unbounded_send(line).unwrap();
            }
        }
        self.open.push((collection.to_owned(), selector.to_owned(), sender));
        Body::from_stream(receiver.map(Ok::<_, Infallible>))
    }
}
