//! Prefixes that give a subscription another meaning.

/// Splits a filter into the prefix that says how it is subscribed to (`$share/group/`, `$queue/`, `$exclusive/`, or
/// nothing) and the filter itself.
///
/// Only the outermost prefix is taken off. A filter that ends within its prefix is left whole.
#[must_use]
pub fn split_prefix(filter: &str) -> (&str, &str) {
    let end = match filter.split_once('/') {
        Some((first @ ("$queue" | "$exclusive"), _)) => first.len() + 1,
        Some((first @ "$share", rest)) => match rest.split_once('/') {
            Some((group, _)) => first.len() + 1 + group.len() + 1,
            None => 0,
        },
        _ => 0,
    };
    if end == filter.len() { ("", filter) } else { filter.split_at(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (filter, prefix, rest) in [
            ("a/b", "", "a/b"),
            ("$share/g/a/+", "$share/g/", "a/+"),
            ("$share/g//", "$share/g/", "/"),
            ("$share/g", "", "$share/g"),
            ("$share/g/", "", "$share/g/"),
            ("$shared/g/a", "", "$shared/g/a"),
            ("$queue/a", "$queue/", "a"),
            ("$queue", "", "$queue"),
            ("$queue/", "", "$queue/"),
            ("$exclusive/a/#", "$exclusive/", "a/#"),
            ("$exclusive/$share/g/a", "$exclusive/", "$share/g/a"),
            ("x/$queue/a", "", "x/$queue/a"),
            ("", "", ""),
        ] {
            assert_eq!(split_prefix(filter), (prefix, rest), "{filter}");
        }
    }
}
