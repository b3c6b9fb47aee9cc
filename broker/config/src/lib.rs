//! The typed settings of a broker, their defaults, checks and sources.
