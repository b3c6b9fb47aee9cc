//! Node-to-node transport: mutual TLS, several streams a pair, batched, bounded.
