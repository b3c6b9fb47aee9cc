"""A small simulated cluster that keeps all promises, with clients and faults at random by a seed, whose histories the checker is tried on;
and the bugs that can be planted in it.

It is no model of the broker in Rust. It has what the promises are about and no more: nodes with leases, a log that commits
late and is repeated, one state machine, connections that lose what is on their way. Time is simulated: a second here is short."""
