//! Auto-subscribe: subscriptions that every client gets when it connects, without a SUBSCRIBE.
//!
//! As in EMQX the topic may have the placeholders `${clientid}`, `${username}`, `${host}` and `${port}` (of the
//! client's end of the connection) and the short forms `%c`, `%u`, `%h`; it may be shared (`$share/group/…`, `$queue/…`) or
//! exclusive; before MQTT 5 only its QoS counts; a subscription that needs the user name of a client that has none
//! is left out.
//!
//! Decided here: an identifier or user name with `+` or `#` is left out as well, so that a client cannot name itself
//! into other clients' topics. Rewrite rules do not apply. The mount point is put before the filter by whoever subscribes.

use raftmq_mqtt::topic::{TopicError, TopicFilter, validate_filter};
use raftmq_mqtt::{SubOptions, Version};
use thiserror::Error;

use crate::filter::split_prefix;
use crate::template::{ClientVars, FillError, Template, TemplateError};

/// The most subscriptions: each client gets all of them.
pub const MAX_SUBSCRIPTIONS: usize = 64;

/// A subscription as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoSubscription {
    /// The filter, with placeholders.
    pub topic: String,
    /// QoS 0, and retained messages at each connection, by default.
    pub options: SubOptions,
}

/// What is wrong with the list; [`place`](Self::place) says where. Subscriptions are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AutoSubscribeError {
    /// More than [`MAX_SUBSCRIPTIONS`].
    #[error("{count} subscriptions are more than {MAX_SUBSCRIPTIONS}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A placeholder is wrong.
    #[error("{error}")]
    Template {
        /// The subscription.
        number: usize,
        /// What is wrong, with the place.
        error: TemplateError,
    },
    /// Whoever the client is, it is no filter.
    #[error("the filter {error}")]
    Filter {
        /// The subscription.
        number: usize,
        /// What is wrong.
        error: TopicError,
    },
    /// No Local with a shared subscription (`[MQTT-3.8.3-4]`).
    #[error("a shared subscription cannot have it")]
    SharedNoLocal {
        /// The subscription.
        number: usize,
    },
}

impl AutoSubscribeError {
    /// The setting within the list: `[0].topic`, or nothing where it is the list itself.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::TooMany { .. } => String::new(),
            Self::Template { number, .. } | Self::Filter { number, .. } => format!("[{number}].topic"),
            Self::SharedNoLocal { number } => format!("[{number}].noLocal"),
        }
    }
}

/// A subscription that a client did not get. Subscriptions are counted from 0, as in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeftOut {
    /// A placeholder cannot be filled.
    #[error("mqtt.autoSubscribe[{number}] {error}")]
    Fill {
        /// The subscription.
        number: usize,
        /// Why.
        error: FillError,
    },
    /// What comes out is no filter: too long, or empty.
    #[error("mqtt.autoSubscribe[{number}]: the filter {error}")]
    Filter {
        /// The subscription.
        number: usize,
        /// Why.
        error: TopicError,
    },
}

/// The compiled list.
#[derive(Debug, Clone, Default)]
pub struct AutoSubscribe(Vec<(Template, SubOptions)>);

impl AutoSubscribe {
    /// Compiles the list.
    ///
    /// # Errors
    /// The first subscription that is wrong, and where.
    pub fn compile(subscriptions: &[AutoSubscription]) -> Result<Self, AutoSubscribeError> {
        if subscriptions.len() > MAX_SUBSCRIPTIONS {
            return Err(AutoSubscribeError::TooMany { count: subscriptions.len() });
        }
        let compiled = subscriptions.iter().enumerate().map(|(number, subscription)| compile(number, subscription));
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// Everything that is wrong with the list, at most one thing a subscription.
    #[must_use]
    pub fn check(subscriptions: &[AutoSubscription]) -> Vec<AutoSubscribeError> {
        if subscriptions.len() > MAX_SUBSCRIPTIONS {
            return vec![AutoSubscribeError::TooMany { count: subscriptions.len() }];
        }
        subscriptions.iter().enumerate().filter_map(|(number, one)| compile(number, one).err()).collect()
    }

    /// Whether there are none: then [`filters`](Self::filters) need not be called.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The subscriptions of a client, in the order of the list; of a filter that comes twice the options of the later
    /// one. `left_out` gets those that this client cannot have.
    #[must_use]
    pub fn filters(
        &self,
        client: &ClientVars<'_>,
        version: Version,
        mut left_out: impl FnMut(LeftOut),
    ) -> Vec<(String, SubOptions)> {
        let mut filters: Vec<(String, SubOptions)> = Vec::with_capacity(self.0.len());
        for (number, (template, options)) in self.0.iter().enumerate() {
            // Groups are those of regular expressions: there are none.
            let filter = template.fill(client, |_| "").map_err(|error| LeftOut::Fill { number, error });
            let valid = filter.and_then(|filter| match validate_filter(&filter) {
                Ok(()) => Ok(filter),
                Err(error) => Err(LeftOut::Filter { number, error }),
            });
            let options = match version {
                Version::V5 => *options,
                Version::V3_1 | Version::V3_1_1 => SubOptions { qos: options.qos, ..SubOptions::default() },
            };
            match valid {
                Ok(filter) => match filters.iter_mut().find(|(other, _)| *other == filter) {
                    Some(other) => other.1 = options,
                    None => filters.push((filter, options)),
                },
                Err(reason) => left_out(reason),
            }
        }
        filters
    }
}

fn compile(number: usize, subscription: &AutoSubscription) -> Result<(Template, SubOptions), AutoSubscribeError> {
    let template =
        Template::parse(&subscription.topic, None).map_err(|error| AutoSubscribeError::Template { number, error })?;
    let example = template.example();
    let filter = TopicFilter::parse(&example).map_err(|error| AutoSubscribeError::Filter { number, error })?;
    let shared = filter.group().is_some() || split_prefix(&example).0 == "$queue/";
    if shared && subscription.options.no_local {
        return Err(AutoSubscribeError::SharedNoLocal { number });
    }
    Ok((template, subscription.options))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use raftmq_mqtt::{QoS, RetainHandling};

    use super::*;
    use crate::template::tests::client;

    const OPTIONS: SubOptions = SubOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
    };

    fn list(topics: &[(&str, SubOptions)]) -> Result<AutoSubscribe, AutoSubscribeError> {
        let entries: Vec<AutoSubscription> = topics
            .iter()
            .map(|(topic, options)| AutoSubscription { topic: (*topic).to_owned(), options: *options })
            .collect();
        AutoSubscribe::compile(&entries)
    }

    fn filters(
        list: &AutoSubscribe,
        client: &ClientVars<'_>,
        version: Version,
    ) -> (Vec<(String, SubOptions)>, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let filters = list.filters(client, version, |reason| left_out.push(reason));
        (filters, left_out)
    }

    #[test]
    fn each_client_gets_its_own() {
        let list = list(&[
            ("c/${clientid}", OPTIONS),
            ("u/%u/#", SubOptions::default()),
            ("client/%c/username/${username}/host/${host}/port/${port}", SubOptions::default()),
            ("$share/g/%c", SubOptions::default()),
            ("$exclusive/x/%c", SubOptions::default()),
        ])
        .unwrap();
        let (found, left_out) = filters(&list, &client("c1", Some("u1")), Version::V5);
        let expected = [
            ("c/c1", OPTIONS),
            ("u/u1/#", SubOptions::default()),
            ("client/c1/username/u1/host/192.0.2.7/port/54321", SubOptions::default()),
            ("$share/g/c1", SubOptions::default()),
            ("$exclusive/x/c1", SubOptions::default()),
        ];
        assert_eq!(found, expected.map(|(filter, options)| (filter.to_owned(), options)));
        assert!(left_out.is_empty());
    }

    #[test]
    fn before_mqtt_5_only_the_qos_counts() {
        let list = list(&[("a", OPTIONS)]).unwrap();
        for version in [Version::V3_1, Version::V3_1_1] {
            let options = SubOptions { qos: QoS::AtLeastOnce, ..SubOptions::default() };
            assert_eq!(filters(&list, &client("c", None), version).0, [("a".to_owned(), options)]);
        }
    }

    #[test]
    fn what_a_client_cannot_have_is_left_out() {
        let list = list(&[("c/%c", OPTIONS), ("u/%u", OPTIONS), ("all", OPTIONS)]).unwrap();
        let (found, left_out) = filters(&list, &client("#", None), Version::V5);
        assert_eq!(found, [("all".to_owned(), OPTIONS)]);
        assert_eq!(
            left_out,
            [
                LeftOut::Fill { number: 0, error: FillError::Wildcard("client identifier") },
                LeftOut::Fill { number: 1, error: FillError::NoUsername },
            ]
        );
        let long = "x".repeat(65_534);
        let (_, left_out) = filters(&list, &client(&long, Some("u")), Version::V5);
        assert_eq!(left_out, [LeftOut::Filter { number: 0, error: TopicError::TooLong }]);
    }

    #[test]
    fn twice_the_same_filter() {
        let list = list(&[("c/%c", SubOptions::default()), ("c/1", OPTIONS)]).unwrap();
        assert_eq!(filters(&list, &client("1", None), Version::V5).0, [("c/1".to_owned(), OPTIONS)]);
        assert_eq!(filters(&list, &client("2", None), Version::V5).0.len(), 2);
    }

    #[test]
    fn errors_name_the_entry_and_the_place() {
        for (topic, expected) in [
            ("", "[1].topic: the filter is empty"),
            (
                "a/${client}",
                "[1].topic: '${client}' at byte 2 is not known: there are clientid, username, host and port",
            ),
            ("a/#/%c", "[1].topic: the filter has a '#' that is not alone in the last level"),
            ("$share/g/a", "[1].noLocal: a shared subscription cannot have it"),
            ("$queue/a", "[1].noLocal: a shared subscription cannot have it"),
        ] {
            let error = list(&[("ok", OPTIONS), (topic, OPTIONS)]).unwrap_err();
            assert_eq!(format!("{}: {error}", error.place()), expected);
        }
        let count = MAX_SUBSCRIPTIONS + 1;
        assert_eq!(list(&vec![("a", OPTIONS); count]).unwrap_err(), AutoSubscribeError::TooMany { count });
        assert!(AutoSubscribe::default().is_empty());
    }

    proptest! {
        /// Valid filters, each once, whoever the client is.
        #[test]
        fn always_valid(
            topics in prop::collection::vec("([a-z/+#]|%c|%u|\\$\\{host\\}|\\$share/g/){1,4}", 0..6),
            id in "([a-z/+#]|\\PC){0,6}",
            username in prop::option::of("([a-z/+#]|\\PC){0,6}"),
        ) {
            let topics: Vec<_> = topics.iter().map(|topic| (topic.as_str(), SubOptions::default())).collect();
            if let Ok(list) = list(&topics) {
                let (found, left_out) = filters(&list, &client(&id, username.as_deref()), Version::V5);
                prop_assert!(found.len() + left_out.len() <= topics.len());
                for (index, (filter, _)) in found.iter().enumerate() {
                    prop_assert!(validate_filter(filter).is_ok());
                    prop_assert!(found[..index].iter().all(|(other, _)| other != filter));
                }
            }
        }
    }
}
