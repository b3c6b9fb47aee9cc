//! openraft's storage suite.
