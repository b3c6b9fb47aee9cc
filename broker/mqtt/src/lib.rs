//! MQTT packets, codec, topic names and filters, reason codes and the message envelope, without I/O.
