//! Checks that a type cannot make.

/// Whether a text is a label of RFC 1123: 1 to 63 lower-case letters, digits and hyphens, no hyphen at an end.
#[must_use]
pub fn is_rfc1123_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}
