//! The generated reference of all settings, docs/configuration.md.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value as Json;

use crate::Config;
use crate::schema::{Kind, Shape, join, schema_of, shape};

/// The reference of all settings as Markdown: path, type, default, meaning and environment variable.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    let schema = schema_of::<Config>();
    let mut sections = vec![Section { path: String::new(), shape: shape(&schema) }];
    // Sections come in the order of the document, each before those inside it.
    while !sections.is_empty() {
        let section = sections.remove(0);
        let inner = section.write(&mut out);
        sections.splice(0..0, inner);
    }
    out
}

const INTRODUCTION: &str = "<!-- Generated from the settings' types by `cargo run -p raftmq-config --example reference`. -->

# Configuration

A node reads its settings from a YAML file (`raftmq node --config FILE`), then from environment variables, then from
flags; the later source wins, setting by setting. Without any, it is a standalone node on the default ports.

An environment variable is named `RAFTMQ__`, then the path of the setting with `__` for each step: `RAFTMQ__MQTT__MAX_PACKET_SIZE`. Upper or
lower case and single underscores inside a name do not matter. A list is given by index (`RAFTMQ__LISTENERS__0__BIND`), as YAML or JSON
text, or, where it holds plain values, separated by commas.

Durations are written with a unit (`500ms`, `2s`, `1h30m`, `7d`), sizes as well (`512B`, `64KiB`, `16MiB`; 1 KiB is 1024 bytes). A setting that is
unknown, out of range or at odds with another one stops the node with an error that names it, where it was written and what is allowed.

A running node reads its settings again on SIGHUP and by `raftmq ctl reload`; [limits.md](limits.md) says which of them change then, and what
zones are for:

```yaml
zones:
  sensors:
    maxQos: 1
    maxQueuedMessages: 100
    queueFull: dropOldest
listeners:
  - { name: mqtt, bind: ':1883' }
  - { name: sensors, bind: ':1884', zone: sensors }
```

In the environment the name of a zone is written with underscores for its hyphens: `RAFTMQ__ZONES__MY_ZONE__MAX_QOS` is `zones.my-zone.maxQos`.
";

struct Section<'a> {
    path: String,
    shape: Shape<'a>,
}

impl<'a> Section<'a> {
    /// Writes the settings of one section; returns the sections inside.
    fn write(self, out: &mut String) -> Vec<Section<'a>> {
        let Kind::Object { properties, required } = self.shape.kind else {
            return Vec::new();
        };
        let mut inner = Vec::new();
        let mut rows = String::new();
        for (name, schema) in properties {
            let path = join(&self.path, name);
            let setting = shape(schema);
            match &setting.kind {
                Kind::Object { .. } => inner.push(Section { path, shape: setting }),
                Kind::List(items) if matches!(shape(items).kind, Kind::Object { .. }) => inner.push(Section {
                    path: format!("{path}[]"),
                    shape: Shape {
                        kind: shape(items).kind,
                        description: setting.description,
                        default: setting.default,
                    },
                }),
                Kind::Dictionary(values) if matches!(shape(values).kind, Kind::Object { .. }) => inner.push(Section {
                    path: format!("{path}.NAME"),
                    shape: Shape {
                        kind: shape(values).kind,
                        description: setting.description,
                        default: setting.default,
                    },
                }),
                _ => row(&mut rows, &path, &setting, required.contains(&name)),
            }
        }
        let title = if self.path.is_empty() { "Top level".to_owned() } else { format!("`{}`", self.path) };
        let _ = writeln!(out, "\n## {title}\n");
        if !self.path.is_empty() {
            let _ = writeln!(out, "{}", prose(self.shape.description));
            if let Some(default @ Json::Array(_)) = self.shape.default {
                let _ = writeln!(out, "\nDefault: `{}`", sorted(default));
            }
            if !rows.is_empty() {
                out.push('\n');
            }
        }
        if !rows.is_empty() {
            out.push_str("| Setting | Type | Default | Meaning | Environment |\n|---|---|---|---|---|\n");
            out.push_str(&rows);
        }
        inner
    }
}

fn row(rows: &mut String, path: &str, setting: &Shape<'_>, required: bool) {
    let default = match setting.default {
        _ if required => "required".to_owned(),
        Some(Json::String(text)) => format!("`{text}`"),
        Some(other) => format!("`{}`", sorted(other)),
        None => "–".to_owned(),
    };
    let _ = writeln!(
        rows,
        "| `{path}` | {} | {default} | {} | `{}` |",
        type_name(&setting.kind),
        prose(setting.description),
        environment_name(path),
    );
}

/// JSON with the entries of its maps by name, whatever the build's features say of their order.
fn sorted(json: &Json) -> String {
    match json {
        Json::Object(map) => {
            let entries: BTreeMap<_, _> = map.iter().collect();
            let entries: Vec<_> = entries.iter().map(|(k, v)| format!("{k:?}: {}", sorted(v))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Json::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(", ")),
        scalar => scalar.to_string(),
    }
}

/// A description on one line.
fn prose(description: Option<&str>) -> String {
    description.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn type_name(kind: &Kind<'_>) -> String {
    let with_range = |name: &str, range: String| {
        if range.is_empty() { name.to_owned() } else { format!("{name}, {range}") }
    };
    match kind {
        Kind::Choice(values) => values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", "),
        Kind::Duration(range) => with_range("duration", range.describe()),
        Kind::Bytes(range) => with_range("size", range.describe()),
        Kind::Integer(range) => with_range("whole number", range.describe()),
        Kind::Bind => "`IP:PORT` or `:PORT`".into(),
        Kind::List(items) => format!("list of {}", type_name(&shape(items).kind)),
        other => other.expected(),
    }
}

/// `mqtt.maxPacketSize` is `RAFTMQ__MQTT__MAX_PACKET_SIZE`; an item of a list has its index for a name.
fn environment_name(path: &str) -> String {
    let mut name = String::from("RAFTMQ__");
    for c in path.replace("[]", ".0").replace(".NAME", ".name").chars() {
        match c {
            '.' => name.push_str("__"),
            c if c.is_ascii_uppercase() => {
                name.push('_');
                name.push(c);
            }
            c => name.push(c.to_ascii_uppercase()),
        }
    }
    name
}
