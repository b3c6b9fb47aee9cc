//! An API server in memory, as far as reconciliations need one: objects by path, lists by label, server-side apply as a merge,
//! resource versions and generations. It writes down what was written.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
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
                let (status, answer) = state.lock().unwrap().answer(&parts.method, &parts.uri, &body);
                let body = Full::new(bytes::Bytes::from(answer.to_string()));
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
        self.0.lock().unwrap().objects.remove(path);
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

    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }
}

impl State {
    fn answer(&mut self, method: &Method, uri: &http::Uri, body: &[u8]) -> (StatusCode, Value) {
        let path = uri.path().to_owned();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let (object, subresource) = match path.strip_suffix("/status") {
            Some(object) => (object.to_owned(), true),
            None => (path.clone(), false),
        };
        if method != Method::GET {
            let what = match path.ends_with("/events") {
                true => format!("EVENT {}", body["reason"].as_str().unwrap_or("?")),
                false => format!("{method} {}", path.rsplit_once("/namespaces/mq/").map_or(path.as_str(), |(_, p)| p)),
            };
            self.writes.push(what);
            if let Some(status) = self.refused.get(&object) {
                return error(*status, "refused by the test");
            }
        }
        match *method {
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
                if subresource {
                    merged["status"] = body["status"].clone();
                } else {
                    merge(&mut merged, &body);
                }
                (StatusCode::OK, self.store(&object, merged))
            }
            Method::DELETE => match self.objects.remove(&object) {
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
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let query = query.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
        let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap_or_default();
        let matches = |object: &Value| {
            selector
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .all(|(k, v)| object["metadata"]["labels"][k] == v)
        };
        let inside = |candidate: &str| candidate.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let mut items: Vec<Value> =
            self.objects.iter().filter(|(p, o)| inside(p) && matches(o)).map(|(_, o)| o.clone()).collect();
        for item in &mut items {
            // Items of a list say neither.
            item.as_object_mut().unwrap().remove("apiVersion");
            item.as_object_mut().unwrap().remove("kind");
        }
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }
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
