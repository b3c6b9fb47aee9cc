//! Settings with their places: a document in which each key and each value knows where it was written.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use crate::{Origin, Problem};

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written. Of a map or list in a file: the place of its first entry.
    pub origin: Origin,
}

/// A value as YAML and JSON know them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, the same as not written at all.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the document.
    Map(Vec<Entry>),
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub origin: Origin,
    /// The value.
    pub value: Node,
}

impl Value {
    /// What a reader would call it, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// A map without entries.
    #[must_use]
    pub fn empty_map(origin: Origin) -> Self {
        Self { value: Value::Map(Vec::new()), origin }
    }

    /// A node from JSON, all of it with one origin.
    #[must_use]
    pub fn from_json(json: &serde_json::Value, origin: &Origin) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => Value::Number(n.clone()),
            Json::String(s) => Value::Text(s.clone()),
            Json::Array(items) => Value::List(items.iter().map(|i| Self::from_json(i, origin)).collect()),
            Json::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        origin: origin.clone(),
                        value: Self::from_json(value, origin),
                    })
                    .collect(),
            ),
        };
        Self { value, origin: origin.clone() }
    }

    /// The same as JSON; entries of a map that hold nothing are left out.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Number(n) => Json::Number(n.clone()),
            Value::Text(s) => Json::String(s.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .filter(|e| e.value.value != Value::Null)
                    .map(|e| (e.key.clone(), e.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// The entry of a map.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    /// The text of a map's entry.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where the setting of a path (`listeners[0].bind`) was written; if it was not, where the nearest setting above it was.
    #[must_use]
    pub fn locate(&self, path: &str) -> Origin {
        self.locate_or(path, &self.origin).clone()
    }

    fn locate_or<'a>(&'a self, path: &str, here: &'a Origin) -> &'a Origin {
        match &self.value {
            Value::Map(entries) if !path.is_empty() => {
                // Keys may hold dots themselves (labels): the key decides where the step ends, not the dot.
                for entry in entries {
                    let Some(rest) = path.strip_prefix(entry.key.as_str()) else {
                        continue;
                    };
                    if rest.is_empty() || rest.starts_with(['.', '[']) {
                        let rest = rest.strip_prefix('.').unwrap_or(rest);
                        return entry.value.locate_or(rest, &entry.origin);
                    }
                }
                here
            }
            Value::List(items) if path.starts_with('[') => {
                let Some((index, rest)) = path[1..].split_once(']') else {
                    return here;
                };
                let Some(item) = index.parse().ok().and_then(|i: usize| items.get(i)) else {
                    return here;
                };
                item.locate_or(rest.strip_prefix('.').unwrap_or(rest), &item.origin)
            }
            Value::Map(_) | Value::List(_) => here,
            _ => &self.origin,
        }
    }

    fn set_origin(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|i| i.set_origin(origin)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.origin = origin.clone();
                    entry.value.set_origin(origin);
                }
            }
            _ => {}
        }
    }
}

/// The documents of a YAML text; empty ones are left out.
///
/// # Errors
/// What is not YAML, with its place. A key given twice is an error as well.
pub fn parse_documents(text: &str, file: &str) -> Result<Vec<Node>, Problem> {
    let documents: Vec<Spanned<Raw>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let error = error.without_snippet();
        Problem {
            path: String::new(),
            origin: error.location().map_or_else(|| origin(file, None), |location| origin(file, Some(&location))),
            message: UserMessageFormatter.format_message(error).into_owned(),
        }
    })?;
    Ok(documents.into_iter().map(|d| place(d, file)).collect())
}

/// A value written as YAML or JSON text in one place, as an environment variable is.
pub(crate) fn parse_value(text: &str, origin: &Origin) -> Result<Node, String> {
    let mut documents = parse_documents(text, "").map_err(|problem| problem.message)?;
    let mut node = match (documents.pop(), documents.is_empty()) {
        (Some(node), true) => node,
        (None, _) => Node { value: Value::Null, origin: origin.clone() },
        _ => return Err("holds several YAML documents; write one".into()),
    };
    node.set_origin(origin);
    Ok(node)
}

fn origin(file: &str, location: Option<&Location>) -> Origin {
    Origin::File {
        file: file.to_owned(),
        line: location.map_or(1, Location::line),
        column: location.map_or(1, Location::column),
    }
}

fn place(raw: Spanned<Raw>, file: &str) -> Node {
    let here = origin(file, Some(&raw.referenced));
    let value = match raw.value {
        Raw::Scalar(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|i| place(i, file)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    origin: origin(file, Some(&key.referenced)),
                    key: key.value,
                    value: place(value, file),
                })
                .collect(),
        ),
    };
    Node { value, origin: here }
}

/// What serde-saphyr fills in: values with the places that it knows.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Number(value.into())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Number::from_f64(value).map(|n| Raw::Scalar(Value::Number(n))).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
