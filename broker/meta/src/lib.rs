//! The meta group's state machine, serving leases and placement of voters, without I/O.
