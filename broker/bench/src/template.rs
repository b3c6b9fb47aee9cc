//! Topics and client identifiers with a number in them.

use std::fmt::Write as _;

/// A text with `%i` (the number of the client, from 0), `%c` (its client identifier), `%r` (the run, eight hexadecimal digits) and `%%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Index,
    ClientId,
    Run,
}

impl Template {
    /// Whether each client has another text.
    pub(crate) fn varies(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Index | Part::ClientId))
    }

    /// Whether it has the client identifier in it.
    pub(crate) fn has_client_id(&self) -> bool {
        self.parts.contains(&Part::ClientId)
    }

    /// The text for one client.
    pub(crate) fn fill(&self, index: u32, client_id: &str, run: u32) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(piece) => text.push_str(piece),
                Part::ClientId => text.push_str(client_id),
                // Writing to a string does not fail.
                Part::Index => drop(write!(text, "{index}")),
                Part::Run => drop(write!(text, "{run:08x}")),
            }
        }
        text
    }

    /// A topic filter that matches the topics of all clients: each level that varies is a `+`.
    pub(crate) fn wildcard(&self) -> Self {
        let mut parts = Vec::new();
        let mut level = Vec::new();
        let mut end = |level: &mut Vec<Part>, last: bool| {
            if (Self { parts: level.clone() }).varies() {
                parts.push(Part::Text("+".to_owned()));
                level.clear();
            } else {
                parts.append(level);
            }
            if !last {
                parts.push(Part::Text("/".to_owned()));
            }
        };
        for part in &self.parts {
            let Part::Text(text) = part else {
                level.push(part.clone());
                continue;
            };
            for (n, piece) in text.split('/').enumerate() {
                if n > 0 {
                    end(&mut level, false);
                }
                if !piece.is_empty() {
                    level.push(Part::Text(piece.to_owned()));
                }
            }
        }
        end(&mut level, true);
        Self { parts }
    }
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut piece = String::new();
        let mut chars = text.chars();
        while let Some(next) = chars.next() {
            let part = match next {
                '%' => match chars.next() {
                    Some('%') => {
                        piece.push('%');
                        continue;
                    }
                    Some('i') => Part::Index,
                    Some('c') => Part::ClientId,
                    Some('r') => Part::Run,
                    _ => return Err(format!("{text:?}: after % comes i, c, r or another %")),
                },
                other => {
                    piece.push(other);
                    continue;
                }
            };
            if !piece.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut piece)));
            }
            parts.push(part);
        }
        if !piece.is_empty() {
            parts.push(Part::Text(piece));
        }
        if parts.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self { parts })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_text_for_each_client() {
        for (template, text) in [
            ("a/%i/b", "a/7/b"),
            ("%c", "id"),
            ("a/%r/x%i", "a/000000ff/x7"),
            ("100%%", "100%"),
            ("plain", "plain"),
            ("%i%i/%%i", "77/%i"),
        ] {
            assert_eq!(template.parse::<Template>().unwrap().fill(7, "id", 255), text, "{template}");
        }
        for wrong in ["", "%", "a%x", "a/%"] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_for_all_clients() {
        for (template, filter) in [
            ("a/%i/b", "a/+/b"),
            ("a/x%iy/%c", "a/+/+"),
            ("%i", "+"),
            ("a/%r/%i", "a/00000001/+"),
            ("plain/text", "plain/text"),
            ("/%i/", "/+/"),
            ("a//b", "a//b"),
        ] {
            let wildcard = template.parse::<Template>().unwrap().wildcard();
            assert_eq!(wildcard.fill(0, "id", 1), filter, "{template}");
            assert!(!wildcard.varies());
        }
    }
}
