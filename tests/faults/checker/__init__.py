"""Judges histories of MQTT clients by the eight promises of a cluster. It knows no broker, reads nothing but histories, and needs the
standard library only. The format and the rules in short: ../README.md; each promise's rule with its reasons: the module of that name."""
