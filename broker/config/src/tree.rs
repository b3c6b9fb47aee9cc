//! Settings with their places.
