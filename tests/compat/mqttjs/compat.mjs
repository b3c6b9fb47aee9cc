// What the scenarios share: where the broker is, a client that keeps what it was told, the lines of output.

import { readFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual, inspect } from "node:util";
import mqtt from "mqtt";
import mqttPacket from "mqtt-packet";

export const DEADLINE = 15_000;
export const TRANSPORT = process.argv[2] ?? "tcp";
const ONLY = process.argv.slice(3);
const PROTOCOLS = { tcp: "mqtt", tls: "mqtts", mtls: "mqtts", ws: "ws", wss: "wss" };
const VERSIONS = {
  3.1: { protocolId: "MQIsdp", protocolVersion: 3 },
  "3.1.1": { protocolId: "MQTT", protocolVersion: 4 },
  5: { protocolId: "MQTT", protocolVersion: 5 },
};

export const setting = (name, fallback) => process.env[`RAFTMQ_COMPAT_${name}`] ?? fallback;

/** A topic that no other run uses. */
export const topic = (name) => `compat/${randomBytes(4).toString("hex")}/${name}`;

/** At most 23 characters, as 3.1 wants it. */
export const clientId = () => `compat${randomBytes(6).toString("hex")}`;

export async function until(what, condition, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within ${deadline / 1000} s: ${what}`);
    await sleep(5);
  }
}

export function equal(what, found, wanted) {
  if (!isDeepStrictEqual(found, wanted)) throw new Error(`${what}: ${inspect(found)} instead of ${inspect(wanted)}`);
}

/** The promise's value, or a failure at the deadline. */
export function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${DEADLINE / 1000} s: ${what}`)), DEADLINE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const open = new Set();

/** An MQTT.js client on the transport of this run. */
export class Peer {
  constructor(version, { transport = TRANSPORT, ca = setting("CA"), certificate = true, hold = false, ...options } = {}) {
    const secured = transport === "tcp" || transport === "ws" ? {} : { ca: readFileSync(ca) };
    if (transport === "mtls" && certificate) {
      secured.cert = readFileSync(setting("CERT"));
      secured.key = readFileSync(setting("KEY"));
    }
    this.messages = [];
    this.held = [];
    this.received = [];
    this.client = mqtt.connect({
      protocol: PROTOCOLS[transport],
      host: setting("HOST", "localhost"),
      port: Number(setting(transport.toUpperCase())),
      path: setting("WS_PATH", "/mqtt"),
      clientId: clientId(),
      reconnectPeriod: 0,
      resubscribe: false,
      keepalive: 30,
      ...(hold && { customHandleAcks: (_topic, _payload, packet, done) => this.held.push({ packet, done }) }),
      ...VERSIONS[version],
      ...secured,
      ...options,
    });
    open.add(this);
    // What comes over the wire, also while MQTT.js waits for an acknowledgement.
    const parser = mqttPacket.parser({ protocolVersion: VERSIONS[version].protocolVersion });
    parser.on("packet", (packet) => this.received.push(packet));
    parser.on("error", (error) => (this.error ??= error));
    this.client.stream.on("data", (data) => parser.parse(data));
    this.client.on("connect", (connack) => (this.connack = connack));
    this.client.on("message", (name, payload, packet) => this.messages.push({ name, payload: payload.toString(), packet }));
    this.client.on("disconnect", (packet) => (this.disconnect = packet));
    this.client.on("error", (error) => (this.error ??= error));
    this.client.on("close", () => (this.closed = true));
  }

  /** A client whose CONNACK accepts. */
  static async start(version, options) {
    const peer = new Peer(version, options);
    await until("CONNACK", () => peer.connack || peer.closed || peer.error);
    if (!peer.connack) throw peer.error ?? new Error("closed before CONNACK");
    return peer;
  }

  /** Filters with their QoS or options in one SUBSCRIBE; the codes of SUBACK. */
  async subscribe(filters, properties) {
    const wanted = Object.fromEntries(Object.entries(filters).map(([f, o]) => [f, typeof o === "number" ? { qos: o } : o]));
    const granted = await within(
      "SUBACK",
      this.client.subscribeAsync({ resubscribe: true, ...wanted }, properties && { properties }),
    );
    return granted.map((grant) => grant.qos);
  }

  /** The codes of UNSUBACK. */
  async unsubscribe(...filters) {
    const packet = await within("UNSUBACK", this.client.unsubscribeAsync(filters));
    return packet?.granted;
  }

  /** Publishes and waits until the exchange of its QoS is complete. */
  async publish(name, payload, qos = 1, options = {}) {
    await within(`acknowledgement of QoS ${qos}`, this.client.publishAsync(name, payload, { qos, ...options }));
  }

  on(name) {
    return this.messages.filter((message) => message.name === name);
  }

  /** The messages of a topic, once there are so many; more than that is a failure. */
  async wait(name, count = 1) {
    await until(`${count} messages on ${name}`, () => this.on(name).length >= count);
    equal(`messages on ${name}`, this.on(name).length, count);
    return this.on(name);
  }

  /** Packets of a kind that came over the wire. */
  wire(cmd) {
    return this.received.filter((packet) => packet.cmd === cmd);
  }

  /** Ends the connection without DISCONNECT. */
  async cut() {
    this.client.stream.destroy();
    await until("the end of the connection", () => this.closed);
  }

  /** DISCONNECT, and waits until it is sent. */
  async stop(options) {
    await within("DISCONNECT", this.client.endAsync(false, options));
    open.delete(this);
  }
}

/** Ends what a scenario left open. */
async function closeAll() {
  await Promise.allSettled([...open].map((peer) => within("end", peer.client.endAsync(true))));
  open.clear();
}

let failed = 0;

/** Runs a scenario and prints its line. */
export async function run(name, scenario, ...args) {
  if (ONLY.length && !ONLY.some((only) => name.startsWith(only))) return;
  try {
    await scenario(...args);
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    const line = error.stack?.match(/scenarios[-v5]*\.mjs:\d+/)?.[0] ?? "";
    console.log(`FAIL ${name}: ${error.message} ${line}`.replaceAll("\n", " "));
  } finally {
    await closeAll();
  }
}

export const status = () => (failed ? 1 : 0);
