#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::template::tests::client;

fn rule(action: RewriteAction, source: &str, regex: &str, destination: &str) -> RewriteRule {
    RewriteRule { action, source: source.to_owned(), regex: regex.to_owned(), destination: destination.to_owned() }
}

fn all(source: &str, regex: &str, destination: &str) -> RewriteRule {
    rule(RewriteAction::All, source, regex, destination)
}

/// The example of EMQX's documentation.
fn documented() -> Rewriter {
    Rewriter::compile(&[
        all("y/+/z/#", "^y/(.+)/z/(.+)$", "y/z/$2"),
        all("x/#", "^x/y/(.+)$", "z/y/x/$1"),
        all("x/y/+", r"^x/y/(\d+)$", "z/y/$1"),
    ])
    .unwrap()
}

#[test]
fn the_last_rule_that_matches_counts_and_no_other() {
    let rewriter = documented();
    for (topic, new) in [
        ("y/def", None),
        ("y/a/z/b", Some("y/z/b")),
        ("x/1/2", None),
        ("x/y/2", Some("z/y/2")),
        // The third rule's filter matches, its regular expression does not: the second one is not tried.
        ("x/y/z", None),
        ("x/y/z/1", Some("z/y/x/z/1")),
    ] {
        let client = client("c", None);
        assert_eq!(rewriter.topic(topic, &client).unwrap().as_deref(), new, "{topic}");
        assert_eq!(rewriter.filter(topic, &client).unwrap().as_deref(), new, "{topic}");
    }
}

#[test]
fn actions() {
    let rewriter = Rewriter::compile(&[
        rule(RewriteAction::Publish, "p/#", "^p/(.*)$", "P/$1"),
        rule(RewriteAction::Subscribe, "s/#", "^s/(.*)$", "S/$1"),
    ])
    .unwrap();
    let client = client("c", None);
    assert_eq!(rewriter.topic("p/1", &client).unwrap().as_deref(), Some("P/1"));
    assert_eq!(rewriter.filter("p/1", &client).unwrap(), None);
    assert_eq!(rewriter.topic("s/1", &client).unwrap(), None);
    assert_eq!(rewriter.filter("s/1", &client).unwrap().as_deref(), Some("S/1"));
    assert!(rewriter.publishes() && rewriter.subscribes());
    let nothing = Rewriter::default();
    assert!(!nothing.publishes() && !nothing.subscribes());
    assert_eq!(nothing.topic("p/1", &client), Ok(None));
}

#[test]
fn filters_keep_their_prefix_and_wildcards() {
    let rewriter = Rewriter::compile(&[all("x/#", "^x/(.+)$", "new/$1")]).unwrap();
    for (filter, new) in [
        ("x/+/y", Some("new/+/y")),
        ("x/#", Some("new/#")),
        ("$share/g/x/1", Some("$share/g/new/1")),
        ("$queue/x/1", Some("$queue/new/1")),
        ("$exclusive/x/+", Some("$exclusive/new/+")),
        ("$share/x/y", None),
        ("+/1", None),
        ("#", None),
    ] {
        assert_eq!(rewriter.filter(filter, &client("c", None)).unwrap().as_deref(), new, "{filter}");
    }
    // A topic of PUBLISH has no prefix.
    assert_eq!(rewriter.topic("$queue/x/1", &client("c", None)), Ok(None));
}

#[test]
fn clients() {
    let rewriter = Rewriter::compile(&[
        all("own/#", "^own/(.*)$", "c/${clientid}/$1"),
        all("mine/#", "^mine/(.*)$", "u/%u/%c/$1"),
    ])
    .unwrap();
    let with = |client: ClientVars<'_>, topic| rewriter.topic(topic, &client);
    assert_eq!(with(client("c1", Some("u1")), "own/a").unwrap().as_deref(), Some("c/c1/a"));
    assert_eq!(with(client("c1", Some("u1")), "mine/a").unwrap().as_deref(), Some("u/u1/c1/a"));
    assert_eq!(with(client("c1", None), "mine/a"), Ok(None));
    let error = RewriteError::Fill { rule: 0, error: FillError::Wildcard("client identifier") };
    assert_eq!(with(client("#", None), "own/a"), Err(error));
    assert_eq!(rewriter.filter("own/a", &client("+", None)), Err(error));
    assert_eq!(error.to_string(), "mqtt.rewrite[0] would put a wildcard from the client identifier into a topic");
}

#[test]
fn to_a_delayed_topic() {
    let rewriter =
        Rewriter::compile(&[rule(RewriteAction::Publish, "later/+/#", "^later/([0-9]+)/(.+)$", "$delayed/$1/$2")]);
    let new = rewriter.unwrap().topic("later/5/a/b", &client("c", None)).unwrap();
    assert_eq!(new.as_deref(), Some("$delayed/5/a/b"));
}

#[test]
fn what_comes_out_is_checked() {
    let client = client("c", None);
    let empty = Rewriter::compile(&[all("x/#", "^x/(.*)$", "$1")]).unwrap();
    assert_eq!(empty.topic("x/", &client), Err(RewriteError::Topic { rule: 0, error: TopicError::Empty }));
    let cut = Rewriter::compile(&[rule(RewriteAction::Subscribe, "x/#", "^x/(.*)$", "a$1")]).unwrap();
    assert_eq!(cut.filter("x/#", &client), Err(RewriteError::Topic { rule: 0, error: TopicError::MultiLevel }));
    let shared = Rewriter::compile(&[rule(RewriteAction::Subscribe, "x/#", "^x/(.*)$", "$1")]).unwrap();
    assert_eq!(shared.filter("x/$share/g/a", &client), Err(RewriteError::Prefix { rule: 0 }));
    assert_eq!((u8::from(RewriteError::PUBLISH), u8::from(RewriteError::SUBSCRIBE)), (0x90, 0x8F));
}

#[test]
fn errors_name_rule_and_place() {
    let good = all("x/#", "^x/(.*)$", "y/$1");
    for (bad, expected) in [
        (all("", "a", "b"), "[1].source: the filter is empty"),
        (all("a/#/b", "a", "b"), "[1].source: the filter has a '#' that is not alone in the last level"),
        (all("$share/g/a", "a", "b"), "[1].source: '$share/g/' is not part of what is rewritten"),
        (all("$queue/a", "a", "b"), "[1].source: '$queue/' is not part of what is rewritten"),
        (all("a", "a", "b/$1"), "[1].destination: '$1' at byte 2: the regular expression has 0 groups, counted from 1"),
        (
            all("a", "a", "b/${ip}"),
            "[1].destination: '${ip}' at byte 2 is not known: there are clientid, username, host and port",
        ),
        (all("a", "a", "b/#"), "[1].destination: the topic contains a wildcard"),
        (all("a", "a", ""), "[1].destination: the topic is empty"),
        (all("a", "a", "$share/g/b"), "[1].destination: '$share/g/' is not part of what is rewritten"),
    ] {
        let error = Rewriter::compile(&[good.clone(), bad]).unwrap_err();
        assert_eq!(format!("{}: {error}", error.place()), expected);
    }
    let error = Rewriter::compile(&[good.clone(), all("a", "^x/(.*$", "b")]).unwrap_err();
    let error = format!("{}: {error}", error.place());
    assert!(error.starts_with("[1].regex: "), "{error}");
    assert!(error.contains("^x/(.*$\n       ^") && error.contains("unclosed group"), "{error}");
    let error = Rewriter::compile(&[all("a", "(a{1000}){1000}", "b")]).unwrap_err().to_string();
    assert!(error.contains("size limit"), "{error}");
    let count = MAX_RULES + 1;
    assert_eq!(Rewriter::compile(&vec![good; count]).unwrap_err(), RewriteRuleError::TooMany { count });
    let places = |rules: &[RewriteRule]| Rewriter::check(rules).iter().map(RewriteRuleError::place).collect::<Vec<_>>();
    assert_eq!(places(&[all("", "(", "a"), all("a", "a", "b"), all("a", "(", "")]), ["[0].source", "[2].regex"]);
    // A filter for subscriptions alone may have wildcards.
    assert!(Rewriter::compile(&[rule(RewriteAction::Subscribe, "a", "a", "b/#")]).is_ok());
}

proptest! {
    /// Whatever a client sends, what comes out is valid.
    #[test]
    fn always_valid(
        topic in "([xy]/)?([a-z$+#/0-9]|\\PC){0,20}",
        id in "([a-z+#/]|\\PC){0,5}",
        destination in "([a-z/$+#]|\\$1|%c|\\$\\{username\\}){0,6}",
        action in prop::sample::select(vec![RewriteAction::Publish, RewriteAction::Subscribe, RewriteAction::All]),
    ) {
        if let Ok(rewriter) = Rewriter::compile(&[rule(action, "#", "(.*)", &destination)]) {
            let client = client(&id, Some("u"));
            if validate_topic(&topic).is_ok() && let Ok(Some(new)) = rewriter.topic(&topic, &client) {
                prop_assert!(validate_topic(&new).is_ok());
            }
            if validate_filter(&topic).is_ok() && let Ok(Some(new)) = rewriter.filter(&topic, &client) {
                prop_assert!(validate_filter(&new).is_ok());
                prop_assert_eq!(split_prefix(&new).0, split_prefix(&topic).0);
            }
        }
    }
}
