"""Drives a cluster with real clients while it breaks it, and writes down what the clients see. The history is judged by `checker`, which knows
nothing of this."""
