//! The protocol state machine of one connected client, without I/O.
