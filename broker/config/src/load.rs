//! From file, environment and flags to a [`Config`].

use std::path::Path;

use serde_json::Value as Json;

use crate::schema::{self, Kind, Shape, join, schema_of, shape, unknown};
use crate::tree::{self, Entry, Node, Value};
use crate::validate::violations;
use crate::{Config, ConfigError, Origin, Problem};

/// What the names of environment variables begin with.
const PREFIX: &str = "RAFTMQ__";

impl Config {
    /// Reads a YAML file, then environment variables `RAFTMQ__SECTION__FIELD`, then flags (`(dotted path, value)`), and
    /// checks the result. The later source wins, setting by setting.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or settings are unknown or wrong; all of them are named.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        Self::load_with_origins(path, env, overrides).map(|(config, _)| config)
    }

    /// As [`Config::load`], with the places of the settings, for who checks more than can be checked here.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_origins(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<(Self, Origins), ConfigError> {
        let Some(path) = path else {
            return Self::with_origins("", "settings", env, overrides);
        };
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
        Self::with_origins(&text, &file, env, overrides)
    }

    /// As [`Config::load`], from the text of a file.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn from_sources(
        text: &str,
        file: &str,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        Self::with_origins(text, file, env, overrides).map(|(config, _)| config)
    }

    fn with_origins(
        text: &str,
        file: &str,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<(Self, Origins), ConfigError> {
        let mut documents = tree::parse_documents(text, file).map_err(|p| ConfigError::Invalid(vec![p]))?;
        if documents.len() > 1 {
            return Err(ConfigError::Invalid(vec![Problem {
                path: String::new(),
                origin: documents[1].origin.clone(),
                message: "a second YAML document; settings are one document".into(),
            }]));
        }
        let mut document = documents.pop().unwrap_or_else(|| Node::empty_map(Origin::Default));
        let schema = schema_of::<Self>();
        let mut problems = Vec::new();
        let mut patches = Vec::new();
        for (name, text) in env.filter(|(name, _)| name.starts_with(PREFIX)) {
            let origin = Origin::Environment(name.clone());
            let names: Vec<_> = name[PREFIX.len()..].split("__").collect();
            match resolve(&schema, &names, Spelling::Environment) {
                Ok((steps, shape)) => patches.push((steps, shape, text, origin)),
                Err((path, message)) => problems.push(Problem { path, origin, message }),
            }
        }
        // A list before its items, whatever the order of the environment.
        patches.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, text) in overrides {
            let origin = Origin::Flag(name.clone());
            let dotted = name.replace('[', ".").replace(']', "");
            let names: Vec<_> = dotted.split('.').collect();
            match resolve(&schema, &names, Spelling::Exact) {
                Ok((steps, shape)) => patches.push((steps, shape, text.clone(), origin)),
                Err((path, message)) => problems.push(Problem { path, origin, message }),
            }
        }
        let defaults = serde_json::to_value(Self::default()).expect("settings are plain maps, lists and text");
        for (steps, shape, text, origin) in patches {
            let patched = value_of(&shape.kind, &text, &origin)
                .and_then(|value| patch(&mut document, &steps, value, &defaults, &origin));
            if let Err(message) = patched {
                problems.push(Problem { path: display(&steps), origin, message });
            }
        }
        problems.extend(schema::check(&schema, &document));
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        let config: Self = from_document(&document).map_err(|p| ConfigError::Invalid(vec![p]))?;
        let config = config.checked(|path| document.locate(path))?;
        Ok((config, Origins(document)))
    }

    /// Checks ranges, names and combinations, as [`Config::load`] does, of settings that a program made.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let json = serde_json::to_value(self).map_err(|error| {
            ConfigError::Invalid(vec![Problem {
                path: String::new(),
                origin: Origin::Default,
                message: error.to_string(),
            }])
        })?;
        let problems = schema::check(&schema_of::<Self>(), &Node::from_json(&json, &Origin::Default));
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        self.clone().checked(|_| Origin::Default).map(drop)
    }

    fn checked(self, origin: impl Fn(&str) -> Origin) -> Result<Self, ConfigError> {
        let problems: Vec<_> = violations(&self)
            .into_iter()
            .map(|(path, message)| Problem { origin: origin(&path), path, message })
            .collect();
        if problems.is_empty() { Ok(self) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// The settings as a YAML document that [`Config::load`] reads back.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("settings are plain maps, lists and text")
    }
}

/// Where the settings of a [`Config`] were written.
#[derive(Clone, Debug)]
pub struct Origins(Node);

impl Origins {
    /// What is wrong with the setting of a path, as `mqtt.rewrite[0].destination`, at the place where it was written.
    #[must_use]
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        Problem { path: path.to_owned(), origin: self.0.locate(path), message: message.into() }
    }
}

/// A typed value from a checked document.
///
/// # Errors
/// The first thing that its types refuse, with its place.
pub fn from_document<T: serde::de::DeserializeOwned>(document: &Node) -> Result<T, Problem> {
    serde_path_to_error::deserialize(document.to_json()).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        Problem { origin: document.locate(&path), path, message: error.into_inner().to_string() }
    })
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

#[derive(Clone, Copy)]
enum Spelling {
    /// As in YAML.
    Exact,
    /// Any case, underscores where one likes.
    Environment,
}

impl Spelling {
    fn same(self, known: &str, written: &str) -> bool {
        match self {
            Self::Exact => known == written,
            Self::Environment => known.eq_ignore_ascii_case(&written.replace('_', "")),
        }
    }
}

impl Spelling {
    /// A name of the user's own. Environment variables know no hyphens, and are mostly upper-case.
    fn own_name(self, written: &str) -> String {
        match self {
            Self::Exact => written.to_owned(),
            Self::Environment => written.to_ascii_lowercase().replace('_', "-"),
        }
    }
}

fn display(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => join(&path, key),
        Step::Index(index) => format!("{path}[{index}]"),
    })
}

/// Finds the setting that a list of names means. The error is the path as far as it is known, and a message.
fn resolve<'a>(
    schema: &'a Json,
    names: &[&str],
    spelling: Spelling,
) -> Result<(Vec<Step>, Shape<'a>), (String, String)> {
    let mut steps = Vec::new();
    let mut here = shape(schema);
    for name in names {
        let next = match &here.kind {
            Kind::Object { properties, .. } => {
                let Some((known, schema)) = properties.iter().find(|(known, _)| spelling.same(known, name)) else {
                    let message = unknown(&name.replace('_', ""), properties.iter().map(|(known, _)| *known));
                    return Err((join(&display(&steps), name), message));
                };
                steps.push(Step::Key((*known).to_owned()));
                shape(schema)
            }
            Kind::Dictionary(values) => {
                steps.push(Step::Key(spelling.own_name(name)));
                shape(values)
            }
            Kind::List(items) => {
                let Ok(index) = name.parse() else {
                    let message = format!("{name:?} is not the index of an item of a list, as 0");
                    return Err((display(&steps), message));
                };
                steps.push(Step::Index(index));
                shape(items)
            }
            _ => {
                return Err((display(&steps), format!("has no settings inside, so {name:?} means nothing")));
            }
        };
        here = next;
    }
    Ok((steps, here))
}

/// The value of a setting written as text. What does not fit stays text, so that the check against the schema says why.
fn value_of(kind: &Kind<'_>, text: &str, origin: &Origin) -> Result<Node, String> {
    let node = |value| Node { value, origin: origin.clone() };
    let as_text = || Value::Text(text.to_owned());
    Ok(match kind {
        Kind::Integer(_) | Kind::Number => node(text.trim().parse().map_or_else(|_| as_text(), Value::Number)),
        Kind::Boolean => node(text.trim().parse().map_or_else(|_| as_text(), Value::Bool)),
        Kind::List(items) if !text.trim_start().starts_with(['[', '-']) && is_scalar(&shape(items).kind) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            node(Value::List(parts.map(|part| value_of(&shape(items).kind, part, origin)).collect::<Result<_, _>>()?))
        }
        Kind::Object { .. } | Kind::Dictionary(_) | Kind::List(_) | Kind::Any => tree::parse_value(text, origin)?,
        Kind::Choice(_) | Kind::Text { .. } | Kind::Duration(_) | Kind::Bytes(_) | Kind::Bind => node(as_text()),
    })
}

fn is_scalar(kind: &Kind<'_>) -> bool {
    !matches!(kind, Kind::Object { .. } | Kind::Dictionary(_) | Kind::List(_) | Kind::Any)
}

/// Puts a value where the steps lead. A list that is not written yet begins as the default list.
fn patch(node: &mut Node, steps: &[Step], value: Node, defaults: &Json, origin: &Origin) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *node = value;
        return Ok(());
    };
    if node.value == Value::Null {
        let default = if defaults.is_array() { defaults } else { &Json::Null };
        node.value = match (step, default) {
            (Step::Key(_), _) => Value::Map(Vec::new()),
            (Step::Index(_), Json::Null) => Value::List(Vec::new()),
            (Step::Index(_), list) => Node::from_json(list, &Origin::Default).value,
        };
        node.origin = origin.clone();
    }
    let absent = || Node { value: Value::Null, origin: origin.clone() };
    match (step, &mut node.value) {
        (Step::Key(key), Value::Map(entries)) => {
            let index = entries.iter().position(|e| e.key == *key).unwrap_or_else(|| {
                entries.push(Entry { key: key.clone(), origin: origin.clone(), value: absent() });
                entries.len() - 1
            });
            let defaults = defaults.get(key).unwrap_or(&Json::Null);
            patch(&mut entries[index].value, rest, value, defaults, origin)
        }
        (Step::Index(index), Value::List(items)) => {
            if *index > items.len() {
                return Err(format!("the list has {} items; the next index is {}", items.len(), items.len()));
            }
            if *index == items.len() {
                items.push(absent());
            }
            patch(&mut items[*index], rest, value, &Json::Null, origin)
        }
        // The file holds something else here; the check of the document says so.
        _ => Err(format!("cannot be set inside {}", node.value.kind())),
    }
}
