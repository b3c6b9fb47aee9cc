//! One node's part in the cluster: identity, bootstrap, join, leases, route streams and the subscribe barrier.
