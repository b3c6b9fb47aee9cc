//! The generated reference of all settings.

/// The reference of all settings, as Markdown.
#[must_use]
pub fn reference_markdown() -> String {
    String::new()
}
