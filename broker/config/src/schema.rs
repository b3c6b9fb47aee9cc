//! The schema as the list of settings.
