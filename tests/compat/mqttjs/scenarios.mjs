// The scenarios that every protocol version has.

import { Peer, clientId, equal, setting, topic, until } from "./compat.mjs";

const ALL = ["3.1", "3.1.1", "5"];

async function pair(version) {
  return [await Peer.start(version), await Peer.start(version)];
}

async function connect(version) {
  const peer = await Peer.start(version);
  equal("session present", peer.connack.sessionPresent, false);
  await peer.stop();
  if (version === "3.1") return;
  const nameless = await Peer.start(version, { clientId: "" });
  if (version === "5" && !nameless.connack.properties?.assignedClientIdentifier) {
    throw new Error("no assigned client identifier");
  }
}

async function qos(version) {
  const [publisher, subscriber] = await pair(version);
  for (const level of [0, 1, 2]) {
    const name = topic("qos");
    equal("granted", await subscriber.subscribe({ [name]: level }), [level]);
    for (const published of [0, 1, 2]) await publisher.publish(name, `${published}`, published);
    // Messages of different QoS may overtake one another.
    const found = (await subscriber.wait(name, 3)).map((m) => `${m.payload}:${m.packet.qos}`).sort();
    equal(`QoS at a subscription of QoS ${level}`, found, [0, 1, 2].map((p) => `${p}:${Math.min(p, level)}`));
  }
}

async function several(version) {
  const base = topic("several");
  const [publisher, subscriber] = await pair(version);
  const granted = await subscriber.subscribe({ [`${base}/a`]: 0, [`${base}/+/b`]: 1, [`${base}/c/#`]: 2 });
  equal("granted", granted, [0, 1, 2]);
  for (const [level, name] of ["a", "x/b", "c/d/e"].entries()) {
    await publisher.publish(`${base}/${name}`, name, 2);
    const [message] = await subscriber.wait(`${base}/${name}`);
    equal(name, [message.payload, message.packet.qos], [name, level]);
  }
}

async function unsubscribe(version) {
  const [gone, kept] = [topic("gone"), topic("kept")];
  const [publisher, subscriber] = await pair(version);
  await subscriber.subscribe({ [gone]: 1, [kept]: 1 });
  await publisher.publish(gone, "1");
  await subscriber.wait(gone);
  await subscriber.unsubscribe(gone);
  await publisher.publish(gone, "2");
  await publisher.publish(kept, "end");
  await subscriber.wait(kept);
  equal("messages on the filter given up", subscriber.on(gone).length, 1);
}

async function retained(version) {
  const [kept, end] = [topic("retained"), topic("end")];
  const [publisher, early] = await pair(version);
  await early.subscribe({ [kept]: 1 });
  await publisher.publish(kept, "value", 1, { retain: true });
  equal("RETAIN at an old subscription", (await early.wait(kept))[0].packet.retain, false);
  const late = await Peer.start(version);
  await late.subscribe({ [kept]: 1 });
  const [message] = await late.wait(kept);
  equal("RETAIN at a new subscription", [message.packet.retain, message.payload], [true, "value"]);
  await publisher.publish(kept, "", 1, { retain: true });
  const last = await Peer.start(version);
  await last.subscribe({ [kept]: 1, [end]: 1 });
  await publisher.publish(end, "end");
  await last.wait(end);
  equal("messages after it was cleared", last.on(kept).length, 0);
}

const goneWill = (name) => ({ will: { topic: name, payload: Buffer.from("gone"), qos: 1, retain: false } });

async function will(version) {
  const last = topic("will");
  const observer = await Peer.start(version);
  await observer.subscribe({ [last]: 1 });
  const dying = await Peer.start(version, goneWill(last));
  await dying.cut();
  const [message] = await observer.wait(last);
  equal("will", [message.payload, message.packet.qos, message.packet.retain], ["gone", 1, false]);
}

async function willNot(version) {
  const [last, end, name] = [topic("will"), topic("end"), clientId()];
  const observer = await Peer.start(version);
  await observer.subscribe({ [last]: 1, [end]: 1 });
  const leaving = await Peer.start(version, { clientId: name, ...goneWill(last) });
  await leaving.stop();
  // The same identifier is served anew only when the broker is done with the first connection.
  const again = await Peer.start(version, { clientId: name });
  await again.publish(end, "end");
  await observer.wait(end);
  equal("wills after DISCONNECT", observer.on(last).length, 0);
}

async function session(version) {
  const [base, name] = [topic("session"), clientId()];
  const kept = { clientId: name, clean: false, ...(version === "5" && { properties: { sessionExpiryInterval: 300 } }) };
  const first = await Peer.start(version, kept);
  await first.subscribe({ [`${base}/#`]: 2 });
  await first.stop();
  const publisher = await Peer.start(version);
  for (const level of [1, 2]) await publisher.publish(`${base}/${level}`, `offline ${level}`, level);
  const second = await Peer.start(version, kept);
  // CONNACK of 3.1 has no such flag.
  if (version !== "3.1") equal("session present", second.connack.sessionPresent, true);
  for (const level of [1, 2]) {
    const [message] = await second.wait(`${base}/${level}`);
    equal("message", [message.payload, message.packet.qos], [`offline ${level}`, level]);
  }
  await second.stop();
  const third = await Peer.start(version, { clientId: name });
  equal("session present after a clean start", third.connack.sessionPresent, false);
}

async function shared(version) {
  const [base, end] = [topic("shared"), topic("end")];
  const publisher = await Peer.start(version);
  const members = await pair(version);
  for (const member of members) equal("granted", await member.subscribe({ [`$share/group/${base}`]: 1, [end]: 1 }), [1, 1]);
  for (let number = 0; number < 40; number += 1) await publisher.publish(base, `${number}`);
  await publisher.publish(end, "end");
  for (const member of members) await member.wait(end);
  const all = () => members.flatMap((member) => member.on(base));
  await until("40 messages", () => all().length >= 40);
  const found = all().map((message) => Number(message.payload)).sort((a, b) => a - b);
  equal("messages of both members", found, Array.from({ length: 40 }, (_, number) => number));
  if (members.some((member) => member.on(base).length === 0)) throw new Error("one member got all messages");
}

async function large(version) {
  const base = topic("large");
  const payload = Buffer.from(Array.from({ length: 200_000 }, (_, i) => i % 251));
  const [publisher, subscriber] = await pair(version);
  await subscriber.subscribe({ [base]: 2 });
  for (const level of [0, 1, 2]) await publisher.publish(base, payload, level);
  for (const message of await subscriber.wait(base, 3)) {
    equal("payload is whole", Buffer.compare(message.packet.payload, payload), 0);
  }
}

export async function tlsCa() {
  try {
    await Peer.start("3.1.1", { ca: setting("OTHER_CA") });
  } catch (error) {
    if (/certificate|CERT|SIGNATURE/.test(`${error.code} ${error.message}`)) return;
    throw error;
  }
  throw new Error("the broker's certificate was accepted with another authority");
}

export async function tlsClientCertificate() {
  const base = topic("certificate");
  const peer = await Peer.start("3.1.1", { transport: "mtls" });
  await peer.subscribe({ [base]: 1 });
  await peer.publish(base, "mine");
  await peer.wait(base);
  const refused = await Peer.start("3.1.1", { transport: "mtls", certificate: false }).catch((error) => error);
  if (refused instanceof Peer) throw new Error("served without a client certificate");
}

export const SCENARIOS = [
  [ALL, "connect", connect],
  [ALL, "qos", qos],
  [ALL, "several", several],
  [ALL, "unsubscribe", unsubscribe],
  [ALL, "retained", retained],
  [ALL, "will", will],
  [ALL, "will-not", willNot],
  [ALL, "session", session],
  [["3.1.1", "5"], "shared", shared],
  [ALL, "large", large],
];
