//! The subscription index of a worker and the route table of a node, without I/O.
