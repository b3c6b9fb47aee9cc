//! The JSON schema as the one list of settings: what is known, of which type, in which range.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use crate::tree::{Node, Value};
use crate::{BindAddr, ByteSize, HumanDuration, Problem};

/// The schema of a type, everything in place (no references).
#[must_use]
pub fn schema_of<T: JsonSchema>() -> Json {
    SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// One place of a schema, read for what this crate needs of it.
#[derive(Clone, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) description: Option<&'a str>,
    pub(crate) default: Option<&'a Json>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind<'a> {
    /// Named settings.
    Object {
        properties: Vec<(&'a str, &'a Json)>,
        required: Vec<&'a str>,
    },
    /// Names of the user's own.
    Dictionary(&'a Json),
    List(&'a Json),
    Choice(Vec<&'a str>),
    Text {
        longest: Option<u64>,
        not_empty: bool,
    },
    Duration(Range<HumanDuration>),
    Bytes(Range<ByteSize>),
    Bind,
    Integer(Range<i64>),
    Number,
    Boolean,
    /// What only its own type can judge (Kubernetes' quantities).
    Any,
}

/// Smallest and largest value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range<T> {
    pub(crate) min: Option<T>,
    pub(crate) max: Option<T>,
}

impl<T: PartialOrd + std::fmt::Display> Range<T> {
    fn holds(&self, value: &T) -> bool {
        self.min.as_ref().is_none_or(|min| value >= min) && self.max.as_ref().is_none_or(|max| value <= max)
    }

    pub(crate) fn describe(&self) -> String {
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("{min} or more"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => String::new(),
        }
    }
}

pub(crate) fn shape(schema: &Json) -> Shape<'_> {
    let description = schema.get("description").and_then(Json::as_str);
    let default = schema.get("default").filter(|d| !d.is_null());
    // An optional section is `anyOf: [section, null]`.
    if let Some(some) = optional(schema) {
        let inner = shape(some);
        return Shape { kind: inner.kind, description: description.or(inner.description), default };
    }
    Shape { kind: kind(schema), description, default }
}

fn optional(schema: &Json) -> Option<&Json> {
    let [some, none] = schema.get("anyOf")?.as_array()?.as_slice() else {
        return None;
    };
    (none.get("type")?.as_str()? == "null").then_some(some)
}

fn kind(schema: &Json) -> Kind<'_> {
    if let Some(choices) = choices(schema) {
        return Kind::Choice(choices);
    }
    match type_of(schema) {
        Some("object") => object(schema),
        Some("array") => schema.get("items").map_or(Kind::Any, Kind::List),
        Some("string") => match schema.get("x-raftmq-format").and_then(Json::as_str) {
            Some("duration") => Kind::Duration(text_range(schema)),
            Some("bytes") => Kind::Bytes(text_range(schema)),
            Some("bind") => Kind::Bind,
            _ => Kind::Text {
                longest: schema.get("maxLength").and_then(Json::as_u64),
                not_empty: schema.get("minLength").and_then(Json::as_u64).is_some_and(|n| n > 0),
            },
        },
        Some("integer") => Kind::Integer(Range {
            min: schema.get("minimum").and_then(whole),
            max: schema.get("maximum").and_then(whole),
        }),
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        _ => Kind::Any,
    }
}

/// The type, `null` aside.
fn type_of(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::String(one) => Some(one),
        Json::Array(several) => {
            match several.iter().filter_map(Json::as_str).filter(|t| *t != "null").collect::<Vec<_>>()[..] {
                [one] => Some(one),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The values of an enumeration: `enum`, or `oneOf` with one constant each where the variants are described.
fn choices(schema: &Json) -> Option<Vec<&str>> {
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().filter_map(Json::as_str).collect());
    }
    let variants = schema.get("oneOf")?.as_array()?;
    let mut all = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum")) {
            (Some(constant), _) => all.push(constant.as_str()?),
            (None, Some(values)) => all.extend(values.as_array()?.iter().filter_map(Json::as_str)),
            (None, None) => return None,
        }
    }
    Some(all)
}

fn object(schema: &Json) -> Kind<'_> {
    let additional = schema.get("additionalProperties").filter(|a| a.is_object());
    match (schema.get("properties").and_then(Json::as_object), additional) {
        (Some(properties), None) => Kind::Object {
            properties: {
                let mut all: Vec<_> = properties.iter().map(|(name, s)| (name.as_str(), s)).collect();
                // serde_json's order depends on features that another crate of the build may turn on.
                all.sort_by_key(|(name, _)| *name);
                all
            },
            required: schema
                .get("required")
                .and_then(Json::as_array)
                .map(|names| names.iter().filter_map(Json::as_str).collect())
                .unwrap_or_default(),
        },
        (_, Some(values)) => Kind::Dictionary(values),
        (None, None) => Kind::Any,
    }
}

fn text_range<T: std::str::FromStr>(schema: &Json) -> Range<T> {
    let bound = |name| schema.get(name).and_then(Json::as_str).and_then(|text| text.parse().ok());
    Range { min: bound("x-raftmq-min"), max: bound("x-raftmq-max") }
}

fn whole(json: &Json) -> Option<i64> {
    // Schemas write bounds as floating point, too.
    json.as_i64().or_else(|| json.as_f64().map(|f| f as i64))
}

/// Everything in a document that its schema does not allow: unknown names, wrong types, missing settings, values out of range.
#[must_use]
pub fn check(schema: &Json, document: &Node) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_at(&shape(schema), document, "", &document.origin, &mut problems);
    problems
}

/// `above` is the place of the key, where what is missing inside a map is reported.
fn check_at(shape: &Shape<'_>, node: &Node, path: &str, above: &crate::Origin, problems: &mut Vec<Problem>) {
    if node.value == Value::Null {
        return; // As if it was not written; the section above says whether it had to be.
    }
    let mut wrong = |message: String| {
        problems.push(Problem { path: path.to_owned(), origin: node.origin.clone(), message });
    };
    match (&shape.kind, &node.value) {
        (Kind::Any, _) | (Kind::Number, Value::Number(_)) | (Kind::Boolean, Value::Bool(_)) => {}
        (Kind::Object { properties, required }, Value::Map(entries)) => {
            for entry in entries {
                let path = join(path, &entry.key);
                match properties.iter().find(|(name, _)| *name == entry.key) {
                    Some((_, schema)) => check_at(&self::shape(schema), &entry.value, &path, &entry.origin, problems),
                    None => problems.push(Problem {
                        path,
                        origin: entry.origin.clone(),
                        message: unknown(&entry.key, properties.iter().map(|(name, _)| *name)),
                    }),
                }
            }
            for name in required {
                if node.get(name).is_none_or(|e| e.value.value == Value::Null) {
                    problems.push(Problem {
                        path: join(path, name),
                        origin: above.clone(),
                        message: "missing: it has no default".into(),
                    });
                }
            }
        }
        (Kind::Dictionary(values), Value::Map(entries)) => {
            for entry in entries {
                check_at(&self::shape(values), &entry.value, &join(path, &entry.key), &entry.origin, problems);
            }
        }
        (Kind::List(items), Value::List(values)) => {
            let items = self::shape(items);
            for (index, value) in values.iter().enumerate() {
                check_at(&items, value, &format!("{path}[{index}]"), &value.origin, problems);
            }
        }
        (Kind::Choice(allowed), Value::Text(text)) => {
            if !allowed.contains(&text.as_str()) {
                wrong(format!("{text:?} is not one of {}", allowed.join(", ")));
            }
        }
        (Kind::Text { longest, not_empty }, Value::Text(text)) => {
            if *not_empty && text.is_empty() {
                wrong("is empty".into());
            } else if let Some(longest) = longest.filter(|l| text.chars().count() as u64 > *l) {
                wrong(format!("{text:?} is longer than {longest} characters"));
            }
        }
        (Kind::Duration(range), Value::Text(text)) => in_range(text, range, &mut wrong),
        (Kind::Bytes(range), Value::Text(text)) => in_range(text, range, &mut wrong),
        (Kind::Bind, Value::Text(text)) => {
            if let Err(message) = text.parse::<BindAddr>() {
                wrong(message);
            }
        }
        (Kind::Integer(range), Value::Number(number)) => match number.as_i64() {
            Some(value) if range.holds(&value) => {}
            Some(value) => wrong(format!("{value} is out of range: {}", range.describe())),
            None => wrong(format!("{number} is not {}", shape.kind.expected())),
        },
        (kind, value) => wrong(match value {
            Value::Text(text) => format!("expected {}, found {text:?}", kind.expected()),
            Value::Number(n) => format!("expected {}, found {n}{}", kind.expected(), kind.quote_hint()),
            Value::Bool(b) => format!("expected {}, found {b}{}", kind.expected(), kind.quote_hint()),
            _ => format!("expected {}, found {}", kind.expected(), value.kind()),
        }),
    }
}

fn in_range<T>(text: &str, range: &Range<T>, wrong: &mut impl FnMut(String))
where
    T: std::str::FromStr<Err = String> + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Err(message) => wrong(message),
        Ok(value) if !range.holds(&value) => wrong(format!("{value} is out of range: {}", range.describe())),
        Ok(_) => {}
    }
}

impl Kind<'_> {
    /// What has to be written.
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Object { .. } | Self::Dictionary(_) => "a map".into(),
            Self::List(_) => "a list".into(),
            Self::Choice(allowed) => format!("one of {}", allowed.join(", ")),
            Self::Text { .. } => "text".into(),
            Self::Duration(_) => HumanDuration::ALLOWED.into(),
            Self::Bytes(_) => ByteSize::ALLOWED.into(),
            Self::Bind => BindAddr::ALLOWED.into(),
            Self::Integer(range) => match range.describe() {
                range if range.is_empty() => "a whole number".into(),
                range => format!("a whole number, {range}"),
            },
            Self::Number => "a number".into(),
            Self::Boolean => "true or false".into(),
            Self::Any => "a value".into(),
        }
    }

    fn quote_hint(&self) -> &'static str {
        match self {
            Self::Text { .. } => " (put it in quotes)",
            _ => "",
        }
    }
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The message for an unknown name: the nearest known one, if it is near, and all of them.
pub(crate) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let nearest = known
        .iter()
        .map(|k| (name.to_lowercase(), k.to_lowercase(), k))
        .map(|(name, low, k)| (distance(&name, &low), low.starts_with(&name) && name.len() > 3, k))
        .min()
        .filter(|(distance, begins, k)| *begins || *distance <= (k.len() / 4).max(1));
    let hint = nearest.map_or_else(String::new, |(_, _, k)| format!("; did you mean {k:?}?"));
    format!("unknown setting{hint} (known here: {})", known.join(", "))
}

/// Edit distance: insertions, deletions, replacements, neighbours that changed places.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let replace = row[j] + usize::from(ca != cb);
            let mut least = replace.min(next[j] + 1).min(row[j + 1] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}
