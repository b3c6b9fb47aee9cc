//! How the nodes of a cluster find each other: static, DNS, Kubernetes.
