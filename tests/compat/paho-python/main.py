"""paho-mqtt for Python through every scenario: `python main.py tcp|tls|ws|wss [SCENARIO…]`."""

import sys

import scenarios
import scenarios_v5
import tutorial
from compat import TRANSPORT, Runner

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
