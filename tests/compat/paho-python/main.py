"""paho-mqtt for Python through every scenario: `python main.py tcp|tls|ws|wss [SCENARIO…]`."""

import logging
import sys

import scenarios
import scenarios_v5
import tutorial
from compat import TRANSPORT, Runner

# The helpers of paho log that their connection is over when it is; without a handler that goes to the terminal.
logging.getLogger("paho").addHandler(logging.NullHandler())
runner = Runner()
for versions, scenario in scenarios.SCENARIOS + scenarios_v5.SCENARIOS:
    for version in versions:
        runner.run(f"{scenario.__name__.replace('_', '-')}/{version}", scenario, version)
if TRANSPORT in ("tls", "wss"):
    runner.run("tls-ca", scenarios.tls_ca)
if TRANSPORT == "tls":
    runner.run("tls-client-certificate", scenarios.tls_client_certificate)
for name, program in tutorial.PROGRAMS:
    runner.run(name, program)
sys.exit(1 if runner.failed else 0)
