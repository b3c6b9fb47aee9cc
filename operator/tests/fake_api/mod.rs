//! An API server in memory, as far as reconciliations need one: objects by path, lists by label, server-side apply as a merge,
//! resource versions, generations and watches. It writes down what was asked and written.

mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use watches::Watches;

#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    /// What events say.
    notes: Vec<String>,
    reads: Vec<String>,
    watches: Watches,
    /// Collections that are not listed, as by a role that forbids it.
    hidden: BTreeSet<String>,
    /// Paths whose writes are refused, with the status.
    refused: BTreeMap<String, u16>,
}

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        let state = Arc::clone(&self.0);
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = Arc::clone(&state);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (status, body) = state.lock().unwrap().respond(&parts.method, &parts.uri, &body);
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object there without a trace of a write.
    pub(crate) fn put(&self, path: &str, object: Value) {
        let mut state = self.0.lock().unwrap();
        state.store(path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().delete(path);
    }

    /// Changes an object as somebody else would.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).unwrap();
        change(&mut object);
        self.put(path, object);
    }

    pub(crate) fn refuse(&self, path: &str, status: u16) {
        self.0.lock().unwrap().refused.insert(path.into(), status);
    }

    pub(crate) fn allow(&self) {
        self.0.lock().unwrap().refused.clear();
    }

    /// What was written since the last call, as `VERB path`; events only as their reason.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// What events said since the last call.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().notes)
    }

    /// What was read since the last call, as paths.
    pub(crate) fn take_reads(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().reads)
    }

    /// From now on nobody may list this collection, or else again.
    pub(crate) fn hide(&self, path: &str, hidden: bool) {
        let set = &mut self.0.lock().unwrap().hidden;
        let _ = if hidden { set.insert(path.into()) } else { set.remove(path) };
    }

    /// The objects of a collection with these labels, as a watch delivers them.
    pub(crate) fn list(&self, path: &str, selector: &str) -> Vec<Value> {
        self.0.lock().unwrap().matching(path, selector).cloned().collect()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }
}

impl State {
    fn respond(&mut self, method: &Method, uri: &http::Uri, body: &[u8]) -> (StatusCode, axum::body::Body) {
        let query = uri.query().unwrap_or_default();
        if query.contains("watch=true") {
            let selector = selector(query);
            return (StatusCode::OK, self.watches.begin(uri.path(), &selector, version(query)));
        }
        let (status, answer) = self.answer(method, uri, body);
        (status, answer.to_string().into())
    }

    fn answer(&mut self, method: &Method, uri: &http::Uri, body: &[u8]) -> (StatusCode, Value) {
        let path = uri.path().to_owned();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let (object, subresource) = match path.strip_suffix("/status") {
            Some(object) => (object.to_owned(), true),
            None => (path.clone(), false),
        };
        if method != Method::GET {
            let what = match path.ends_with("/events") {
                true => {
                    self.notes.push(body["note"].as_str().unwrap_or("?").to_owned());
                    format!("EVENT {}", body["reason"].as_str().unwrap_or("?"))
                }
                false => format!("{method} {}", path.rsplit_once("/namespaces/mq/").map_or(path.as_str(), |(_, p)| p)),
            };
            self.writes.push(what);
            if let Some(status) = self.refused.get(&object) {
                return error(*status, "refused by the test");
            }
        }
        if method == Method::GET {
            self.reads.push(path);
        }
        match *method {
            Method::GET if self.hidden.contains(&object) => error(403, "hidden by the test"),
            Method::GET if is_collection(&object) => {
                (StatusCode::OK, self.list(&object, uri.query().unwrap_or_default()))
            }
            Method::GET => match self.objects.get(&object) {
                Some(found) => (StatusCode::OK, found.clone()),
                None => error(404, "not found"),
            },
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or("event").to_owned();
                let path = format!("{object}/{name}");
                match self.objects.contains_key(&path) {
                    true => error(409, "it exists"),
                    false if path.contains("/events/") => (StatusCode::CREATED, body),
                    false => (StatusCode::CREATED, self.store(&path, body)),
                }
            }
            Method::PATCH => {
                let mut merged = self.objects.get(&object).cloned().unwrap_or(json!({}));
                let version = &body["metadata"]["resourceVersion"];
                if version.is_string() && *version != merged["metadata"]["resourceVersion"] {
                    return error(409, "it has changed");
                }
                let uid = &body["metadata"]["uid"];
                if uid.is_string() && *uid != merged["metadata"]["uid"] {
                    return error(409, "it is another one");
                }
                if subresource {
                    merged["status"] = body["status"].clone();
                } else {
                    merge(&mut merged, &body);
                }
                (StatusCode::OK, self.store(&object, merged))
            }
            Method::DELETE => match self.delete(&object) {
                Some(found) => (StatusCode::OK, found),
                None => error(404, "not found"),
            },
            _ => error(405, "not in this test"),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        let old = self.objects.get(path).cloned().unwrap_or_default();
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid of {path}"));
        }
        if metadata["generation"].is_null() || old["spec"] != object["spec"] {
            object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        }
        // As a server does: what is as it was has the version that it had.
        object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if object != old {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            let type_ = if old.is_null() { "ADDED" } else { "MODIFIED" };
            self.watches.happened(self.version, type_, path, &object);
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn delete(&mut self, path: &str) -> Option<Value> {
        let object = self.objects.remove(path)?;
        self.version += 1;
        self.watches.happened(self.version, "DELETED", path, &object);
        Some(object)
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let mut items: Vec<Value> = self.matching(path, &selector(query)).cloned().collect();
        for item in &mut items {
            // Items of a list say neither.
            item.as_object_mut().unwrap().remove("apiVersion");
            item.as_object_mut().unwrap().remove("kind");
        }
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn matching(&self, path: &str, selector: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |(p, o)| is_selected(p, o, path, selector)).map(|(_, object)| object)
    }
}

fn is_selected(path: &str, object: &Value, collection: &str, selector: &str) -> bool {
    let inside = path.strip_prefix(collection).is_some_and(|rest| rest.starts_with('/'));
    let mut labels = selector.split(',').filter_map(|pair| pair.split_once('='));
    inside && labels.all(|(key, value)| object["metadata"]["labels"][key] == value)
}

fn selector(query: &str) -> String {
    let query = query.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
    query.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap_or_default().to_owned()
}

fn version(query: &str) -> u64 {
    query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or_default()
}

/// `/…/namespaces/NS/PLURAL` without a name.
fn is_collection(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').count() == 2)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if key == "resourceVersion" {
                    continue;
                }
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn error(code: u16, message: &str) -> (StatusCode, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Forbidden",
    };
    let answer = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code});
    (StatusCode::from_u16(code).unwrap(), answer)
}
