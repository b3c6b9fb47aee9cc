//! Raft groups over openraft, generic over a state machine and a transport.
