//! Topics with placeholders.

use std::net::SocketAddr;

use thiserror::Error;

/// What placeholders of a client stand for.
#[derive(Debug, Clone, Copy)]
pub struct ClientVars<'a> {
    /// `${clientid}` and `%c`.
    pub client_id: &'a str,
    /// `${username}` and `%u`.
    pub username: Option<&'a str>,
    /// `${host}` and `%h` are its address, `${port}` its port: the client's end of the connection.
    pub peer: SocketAddr,
}

/// What is wrong with a template. Places are bytes from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// `${` without `}`.
    #[error("'${{' at byte {at} has no '}}'")]
    Unclosed {
        /// Where it begins.
        at: usize,
    },
    /// Not a placeholder.
    #[error("'${{{name}}}' at byte {at} is not known: there are clientid, username, host and port")]
    Unknown {
        /// Where it begins.
        at: usize,
        /// What is between the braces.
        name: String,
    },
    /// `$N` where the regular expression has fewer groups.
    #[error("'${group}' at byte {at}: the regular expression has {groups} groups, counted from 1")]
    Group {
        /// Where it begins.
        at: usize,
        /// The number.
        group: String,
        /// How many groups there are.
        groups: usize,
    },
}

/// Why a template cannot be filled for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FillError {
    /// The template needs a user name and the client has none.
    #[error("needs the user name of a client that has none")]
    NoUsername,
    /// A client that names itself `#` shall not get everything.
    #[error("would put a wildcard from the {0} into a topic")]
    Wildcard(&'static str),
    /// A client that names itself `$share/g` shall not have its messages shared.
    #[error("would begin with the '$' of the {0}")]
    Dollar(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Group(usize),
    ClientId,
    Username,
    Host,
    Port,
}

/// A topic with placeholders, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    /// `groups` is the number of groups that `$1`, `$2`, … may name; with `None` they are text.
    pub(crate) fn parse(template: &str, groups: Option<usize>) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['$', '%']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            let place = template.len() - rest.len();
            match placeholder(rest, place, groups)? {
                Some((part, length)) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text).into()));
                    }
                    parts.push(part);
                    rest = &rest[length..];
                }
                None => {
                    text.push_str(&rest[..1]);
                    rest = &rest[1..];
                }
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Self(parts))
    }

    /// The topic for a client. `group` gives what a group of the regular expression found.
    ///
    /// Client identifiers and user names with `/` make several levels, as in EMQX; such with `+` or `#` are an error, and
    /// such with a `$` where the topic begins: what begins with it means something of its own.
    pub(crate) fn fill<'g>(
        &self,
        client: &ClientVars<'_>,
        group: impl Fn(usize) -> &'g str,
    ) -> Result<String, FillError> {
        let mut topic = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Group(number) => topic.push_str(group(*number)),
                Part::ClientId => push_plain(&mut topic, client.client_id, "client identifier")?,
                Part::Username => {
                    push_plain(&mut topic, client.username.ok_or(FillError::NoUsername)?, "user name")?;
                }
                Part::Host => topic.push_str(&client.peer.ip().to_canonical().to_string()),
                Part::Port => topic.push_str(&client.peer.port().to_string()),
            }
        }
        Ok(topic)
    }

    /// The topic with a harmless value in every place, to check what is always the same about it.
    pub(crate) fn example(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.to_string(),
            _ => "x".to_owned(),
        };
        self.0.iter().map(text).collect()
    }
}

/// The placeholder at the front of `rest` and its length; `None` if it is text.
fn placeholder(rest: &str, at: usize, groups: Option<usize>) -> Result<Option<(Part, usize)>, TemplateError> {
    if let Some(inner) = rest.strip_prefix("${") {
        let name = inner.split_once('}').ok_or(TemplateError::Unclosed { at })?.0;
        let part = match name {
            "clientid" => Part::ClientId,
            "username" => Part::Username,
            "host" => Part::Host,
            "port" => Part::Port,
            _ => return Err(TemplateError::Unknown { at, name: name.to_owned() }),
        };
        return Ok(Some((part, name.len() + 3)));
    }
    let short = match rest.get(..2) {
        Some("%c") => Some(Part::ClientId),
        Some("%u") => Some(Part::Username),
        Some("%h") => Some(Part::Host),
        _ => None,
    };
    if let Some(part) = short {
        return Ok(Some((part, 2)));
    }
    let (Some(groups), Some(number)) = (groups, rest.strip_prefix('$')) else {
        return Ok(None);
    };
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Ok(None);
    }
    let digits = &number[..digits];
    match digits.parse() {
        Ok(group) if (1..=groups).contains(&group) => Ok(Some((Part::Group(group), digits.len() + 1))),
        _ => Err(TemplateError::Group { at, group: digits.to_owned(), groups }),
    }
}

fn push_plain(topic: &mut String, value: &str, what: &'static str) -> Result<(), FillError> {
    if value.contains(['+', '#']) {
        return Err(FillError::Wildcard(what));
    }
    if topic.is_empty() && value.starts_with('$') {
        return Err(FillError::Dollar(what));
    }
    topic.push_str(value);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn client<'a>(client_id: &'a str, username: Option<&'a str>) -> ClientVars<'a> {
        ClientVars { client_id, username, peer: "192.0.2.7:54321".parse().unwrap() }
    }

    fn filled(template: &str, groups: &[&str]) -> String {
        let template = Template::parse(template, Some(groups.len())).unwrap();
        template.fill(&client("c1", Some("u1")), |number| groups[number - 1]).unwrap()
    }

    #[test]
    fn placeholders() {
        for (template, expected) in [
            ("", ""),
            ("a/b", "a/b"),
            ("${clientid}/%c", "c1/c1"),
            ("u/${username}/%u/x", "u/u1/u1/x"),
            ("${host}:${port}/%h", "192.0.2.7:54321/192.0.2.7"),
            ("z/$2/$1/$1x", "z/B/A/Ax"),
            // What is no placeholder stays.
            ("$SYS/%/$/%x/100%", "$SYS/%/$/%x/100%"),
            ("$delayed/5/$1", "$delayed/5/A"),
            ("ä%cä$1ä", "äc1äAä"),
        ] {
            assert_eq!(filled(template, &["A", "B"]), expected, "{template}");
        }
    }

    /// `$12` is group 12, not group 1 and a 2.
    #[test]
    fn groups_of_two_digits() {
        let groups: Vec<String> = (1..=12).map(|number| format!("g{number}")).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        assert_eq!(filled("$12/$1", &groups), "g12/g1");
    }

    #[test]
    fn errors_name_their_place() {
        for (template, error) in [
            ("a/${clientid", "'${' at byte 2 has no '}'"),
            ("${ip}", "'${ip}' at byte 0 is not known: there are clientid, username, host and port"),
            ("a/$3", "'$3' at byte 2: the regular expression has 2 groups, counted from 1"),
            ("$0", "'$0' at byte 0: the regular expression has 2 groups, counted from 1"),
            (
                "$99999999999999999999999",
                "'$99999999999999999999999' at byte 0: the regular expression has 2 groups, counted from 1",
            ),
        ] {
            assert_eq!(Template::parse(template, Some(2)).unwrap_err().to_string(), error);
        }
        assert_eq!(Template::parse("a/$3", None).unwrap().example(), "a/$3");
    }

    #[test]
    fn what_a_client_may_not_bring_in() {
        let template = Template::parse("c/${clientid}/${username}", None).unwrap();
        let fill = |client: ClientVars<'_>| template.fill(&client, |_| "");
        assert_eq!(fill(client("a", None)), Err(FillError::NoUsername));
        assert_eq!(fill(client("#", Some("u"))), Err(FillError::Wildcard("client identifier")));
        assert_eq!(fill(client("a", Some("+"))), Err(FillError::Wildcard("user name")));
        assert_eq!(fill(client("plant/7", Some("u"))).unwrap(), "c/plant/7/u");
        assert_eq!(fill(client("$share/g", Some("u"))).unwrap(), "c/$share/g/u");
        for (template, what) in [("${clientid}/x", "client identifier"), ("%u", "user name")] {
            let template = Template::parse(template, None).unwrap();
            let client = client("$share/g", Some("$queue/t"));
            assert_eq!(template.fill(&client, |_| ""), Err(FillError::Dollar(what)));
        }
    }

    #[test]
    fn addresses_are_written_as_ipv4_where_they_are() {
        let template = Template::parse("${host}", None).unwrap();
        for (peer, host) in [("[::ffff:192.0.2.1]:5", "192.0.2.1"), ("[2001:db8::1]:5", "2001:db8::1")] {
            let client = ClientVars { peer: peer.parse().unwrap(), ..client("c", None) };
            assert_eq!(template.fill(&client, |_| "").unwrap(), host);
        }
    }

    proptest! {
        /// No template makes it panic, and what has no placeholders comes out as it is.
        #[test]
        fn any_text(text in "([$%{}a-z0-9/é]|\\PC){0,30}") {
            if let Ok(template) = Template::parse(&text, Some(2)) {
                let filled = template.fill(&client("c", Some("u")), |_| "g").unwrap();
                if !text.contains(['$', '%']) {
                    prop_assert_eq!(filled, text);
                }
            }
        }
    }
}
