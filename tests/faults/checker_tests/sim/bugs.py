"""The bugs that can be planted."""

import enum


class Bug(enum.Enum):
    ACK_BEFORE_COMMIT = "PUBACK is sent when a node has the message, not when a quorum has it"
    FORGET_SEQUENCE = "what is repeated after a change of leader is applied once more"
    REUSE_IDENTITY = "a node comes back under its old id with an empty disk, and committed entries are gone"
    SKIP_BARRIER = "SUBACK is sent before all nodes know of the subscription"
    DROP_EPOCH = "an older connection is served on after a takeover"
    RELEASE_EARLY = "PUBCOMP is sent before the release of the QoS 2 identifier is committed"
    APPLY_TWICE = "entries are applied again after a snapshot that has them"
    SERVE_PAST_LEASE = "a node without a lease serves on"
    WILL_WHILE_UP = "a will is sent while its client is up"
    OTHER_IDENTIFIER = "what is not acknowledged is sent again under another packet identifier"
    UNSUBSCRIBED_LATE = "UNSUBACK is sent before all nodes have forgotten the subscription"
    RETAINED_STALE = "retained messages are read from a copy that lags"
    REORDER = "what is repeated after a change of leader comes in another order"
    WILL_AFTER_DISCONNECT = "a will is sent after DISCONNECT"
    WILL_NO_DELAY = "a will does not wait for its delay"
    WILL_LOST = "wills of a node that dies are not sent"
    FORGET_SESSIONS = "a node's death takes its sessions"
    NO_DUP = "what is not acknowledged is sent again without DUP"


# Which promise each breaks first of all; it may break others.
BREAKS = {
    Bug.ACK_BEFORE_COMMIT: "loss",
    Bug.FORGET_SEQUENCE: "once",
    Bug.REUSE_IDENTITY: "loss",
    Bug.SKIP_BARRIER: "suback",
    Bug.DROP_EPOCH: "owner",
    Bug.RELEASE_EARLY: "loss",
    Bug.APPLY_TWICE: "once",
    Bug.SERVE_PAST_LEASE: "owner",
    Bug.WILL_WHILE_UP: "wills",
    Bug.OTHER_IDENTIFIER: "once",
    Bug.UNSUBSCRIBED_LATE: "unsuback",
    Bug.RETAINED_STALE: "retained",
    Bug.REORDER: "order",
    Bug.WILL_AFTER_DISCONNECT: "wills",
    Bug.WILL_NO_DELAY: "wills",
    Bug.WILL_LOST: "wills",
    Bug.FORGET_SESSIONS: "loss",
    Bug.NO_DUP: "once",
}
