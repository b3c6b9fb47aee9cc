"""What the recipes of a cluster of three are made of: brokers that can be killed, a client, works."""
