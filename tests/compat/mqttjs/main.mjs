// MQTT.js through every scenario: `node main.mjs tcp|tls|ws|wss [SCENARIO…]`.

import { TRANSPORT, run, status } from "./compat.mjs";
import { SCENARIOS, tlsCa, tlsClientCertificate } from "./scenarios.mjs";
import { SCENARIOS as V5 } from "./scenarios-v5.mjs";

for (const [versions, name, scenario] of [...SCENARIOS, ...V5]) {
  for (const version of versions) await run(`${name}/${version}`, scenario, version);
}
if (TRANSPORT === "tls" || TRANSPORT === "wss") await run("tls-ca", tlsCa);
if (TRANSPORT === "tls") await run("tls-client-certificate", tlsClientCertificate);
process.exit(status());
