// The scenarios of MQTT 5's properties.

import { setTimeout as sleep } from "node:timers/promises";
import { Peer, clientId, equal, topic, until } from "./compat.mjs";

const lasting = (sessionExpiryInterval) => ({ clean: false, properties: { sessionExpiryInterval } });

async function pair(options) {
  return [await Peer.start("5"), await Peer.start("5", options)];
}

async function userProperties() {
  const base = topic("user");
  const [publisher, subscriber] = await pair();
  await subscriber.subscribe({ [base]: 1 });
  // MQTT.js keeps repeated names in an array.
  await publisher.publish(base, "x", 1, { properties: { userProperties: { a: ["1", "3"], b: "2", größe: "5 µm" } } });
  const [message] = await subscriber.wait(base);
  const found = Object.entries(message.packet.properties.userProperties);
  equal("user properties", found, [["a", ["1", "3"]], ["b", "2"], ["größe", "5 µm"]]);
}

async function content() {
  const base = topic("content");
  const properties = {
    contentType: "text/plain", responseTopic: `${base}/answers`, correlationData: Buffer.from([0, 1, 255]),
    payloadFormatIndicator: true,
  };
  const [publisher, subscriber] = await pair();
  await subscriber.subscribe({ [base]: 1 });
  await publisher.publish(base, "text", 1, { properties });
  const found = (await subscriber.wait(base))[0].packet.properties;
  for (const name of Object.keys(properties)) equal(name, found[name], properties[name]);
}

async function expiry() {
  const [base, name] = [topic("expiry"), clientId()];
  const first = await Peer.start("5", { clientId: name, ...lasting(300) });
  await first.subscribe({ [`${base}/#`]: 1 });
  await first.stop();
  const publisher = await Peer.start("5");
  await publisher.publish(`${base}/long`, "x", 1, { properties: { messageExpiryInterval: 100 } });
  await publisher.publish(`${base}/short`, "x", 1, { properties: { messageExpiryInterval: 1 } });
  // The interval itself is what is tried.
  await sleep(2_100);
  const second = await Peer.start("5", { clientId: name, ...lasting(0) });
  await publisher.publish(`${base}/end`, "x");
  const left = (await second.wait(`${base}/long`))[0].packet.properties.messageExpiryInterval;
  if (!(left >= 60 && left <= 98)) throw new Error(`expiry of 100 s after 2.1 s: ${left}`);
  await second.wait(`${base}/end`);
  equal("expired messages", second.on(`${base}/short`).length, 0);
}

async function subscriptionIdentifiers() {
  const base = topic("identifiers");
  const [publisher, subscriber] = await pair();
  await subscriber.subscribe({ [`${base}/one/+`]: 1 }, { subscriptionIdentifier: 1 });
  await subscriber.subscribe({ [`${base}/two/#`]: 1 }, { subscriptionIdentifier: 268435455 });
  await subscriber.subscribe({ [`${base}/none`]: 1 });
  for (const [name, identifier] of [["one/a", 1], ["two/b", 268435455], ["none", undefined]]) {
    await publisher.publish(`${base}/${name}`, "x");
    const [message] = await subscriber.wait(`${base}/${name}`);
    equal(name, message.packet.properties?.subscriptionIdentifier, identifier);
  }
}

async function topicAlias() {
  const base = topic("alias");
  const subscriber = await Peer.start("5", { properties: { topicAliasMaximum: 5 } });
  await subscriber.subscribe({ [`${base}/#`]: 1 });
  // First by hand, then as MQTT.js assigns them.
  const byHand = await Peer.start("5");
  if (!(byHand.connack.properties?.topicAliasMaximum >= 2)) throw new Error("the broker takes fewer than two topic aliases");
  for (const [name, alias, payload] of [["a", 1, "1"], ["", 1, "2"], ["b", 2, "3"], ["", 2, "4"], ["c", 1, "5"], ["", 1, "6"]]) {
    await byHand.publish(name && `${base}/${name}`, payload, 1, { properties: { topicAlias: alias } });
  }
  const automatic = await Peer.start("5", { autoAssignTopicAlias: true });
  for (const payload of ["7", "8", "9"]) await automatic.publish(`${base}/d`, payload);
  for (const [name, payloads] of [["a", "12"], ["b", "34"], ["c", "56"], ["d", "789"]]) {
    const found = await subscriber.wait(`${base}/${name}`, payloads.length);
    equal(name, found.map((message) => message.payload).join(""), payloads);
  }
}

async function sessionExpiry() {
  const [last, name] = [topic("over"), clientId()];
  const observer = await Peer.start("5");
  await observer.subscribe({ [last]: 1 });
  // A will whose delay is longer than the session lives is published at the session's end: no clock of ours is needed.
  const dying = await Peer.start("5", {
    clientId: name, ...lasting(1),
    will: { topic: last, payload: Buffer.from("over"), qos: 1, retain: false, properties: { willDelayInterval: 300 } },
  });
  await dying.cut();
  await observer.wait(last);
  const after = await Peer.start("5", { clientId: name, ...lasting(300) });
  equal("session present after its expiry", after.connack.sessionPresent, false);
  await after.stop();
  const before = await Peer.start("5", { clientId: name, ...lasting(300) });
  equal("session present before its expiry", before.connack.sessionPresent, true);
  await before.stop({ properties: { sessionExpiryInterval: 0 } });
  const ended = await Peer.start("5", { clientId: name, clean: false });
  equal("session present after DISCONNECT with expiry 0", ended.connack.sessionPresent, false);
}

async function receiveMaximum(level = 1) {
  const base = topic("maximum");
  const [publisher, subscriber] = await pair({ hold: true, properties: { receiveMaximum: 2 } });
  await subscriber.subscribe({ [base]: 2 });
  for (let number = 0; number < 6; number += 1) await publisher.publish(base, `${number}`, level);
  const came = () => subscriber.wire("publish").length;
  await until("two messages", () => came() >= 2);
  // A further exchange with the broker, so that a third message would have come before its end. MQTT.js itself hears of it
  // only when it has acknowledged.
  const other = subscriber.subscribe({ [`${base}/other`]: 1 });
  other.catch(() => {});
  await until("SUBACK", () => subscriber.wire("suback").length >= 2);
  for (let acknowledged = 0; acknowledged < 6; acknowledged += 1) {
    await until(`message ${acknowledged + 1}`, () => subscriber.held.length > acknowledged || subscriber.closed);
    // MQTT.js may end the connection itself when the broker sends too many.
    if (subscriber.closed) throw new Error(`connection ended: ${subscriber.error?.message}`);
    const pending = came() - acknowledged;
    if (pending > 2) throw new Error(`${pending} messages without acknowledgement, receive maximum 2`);
    subscriber.held[acknowledged].done(null, 0);
  }
  await other;
  equal("messages", (await subscriber.wait(base, 6)).map((message) => Number(message.payload)), [0, 1, 2, 3, 4, 5]);
}

async function reasonCodes() {
  const base = topic("reasons");
  const peer = await Peer.start("5");
  await peer.subscribe({ [base]: 1 });
  equal("codes of UNSUBACK", await peer.unsubscribe(`${base}/never`, base), [0x11, 0x00]);
}

async function protocolError() {
  const peer = await Peer.start("5");
  // [MQTT-3.8.3-4]: no local at a shared subscription.
  peer.subscribe({ [`$share/g/${topic("error")}`]: { qos: 1, nl: true } }).catch(() => {});
  await until("the end of the connection", () => peer.closed);
  equal("reason code of DISCONNECT", peer.disconnect?.reasonCode, 0x82);
}

async function takenOver() {
  const name = clientId();
  const first = await Peer.start("5", { clientId: name });
  await Peer.start("5", { clientId: name });
  await until("the end of the first connection", () => first.closed);
  equal("reason code of DISCONNECT", first.disconnect?.reasonCode, 0x8e);
}

async function requestResponse() {
  const base = topic("request");
  const [requester, responder] = await pair();
  await responder.subscribe({ [base]: 1 });
  await requester.subscribe({ [`${base}/answers`]: 1 });
  const asked = { responseTopic: `${base}/answers`, correlationData: Buffer.from([7, 0]) };
  await requester.publish(base, "question", 1, { properties: asked });
  const { responseTopic, correlationData } = (await responder.wait(base))[0].packet.properties;
  await responder.publish(responseTopic, "answer", 1, { properties: { correlationData } });
  const [answer] = await requester.wait(`${base}/answers`);
  equal("answer", [answer.payload, answer.packet.properties.correlationData], ["answer", Buffer.from([7, 0])]);
}

async function options() {
  const base = topic("options");
  const [publisher, peer] = await pair();
  await peer.subscribe({ [`${base}/local`]: { qos: 1, nl: true } });
  await peer.publish(`${base}/local`, "own");
  await publisher.publish(`${base}/local`, "another's");
  equal("no local", (await peer.wait(`${base}/local`))[0].payload, "another's");

  await peer.subscribe({ [`${base}/kept`]: { qos: 1, rap: true } });
  await publisher.publish(`${base}/kept`, "1", 1, { retain: true });
  equal("RETAIN as published", (await peer.wait(`${base}/kept`))[0].packet.retain, true);

  for (const name of ["never", "once"]) await publisher.publish(`${base}/${name}`, "1", 1, { retain: true });
  await peer.subscribe({ [`${base}/never`]: { qos: 1, rh: 2 } });
  for (let times = 0; times < 2; times += 1) await peer.subscribe({ [`${base}/once`]: { qos: 1, rh: 1 } });
  await peer.subscribe({ [`${base}/end`]: 1 });
  await publisher.publish(`${base}/end`, "end");
  await peer.wait(`${base}/end`);
  equal("retain handling 2", peer.on(`${base}/never`).length, 0);
  await peer.wait(`${base}/once`);
  for (const name of ["kept", "never", "once"]) await publisher.publish(`${base}/${name}`, "", 1, { retain: true });
}

async function willProperties() {
  const last = topic("will");
  const properties = {
    contentType: "text/plain", responseTopic: `${last}/answers`, correlationData: Buffer.from("c"),
    payloadFormatIndicator: true, userProperties: { k: "v" },
  };
  const observer = await Peer.start("5");
  await observer.subscribe({ [last]: 1 });
  const message = { topic: last, payload: Buffer.from("gone"), qos: 1, retain: false };
  const dying = await Peer.start("5", {
    properties: { sessionExpiryInterval: 300 },
    will: { ...message, properties: { willDelayInterval: 1, ...properties } },
  });
  const start = Date.now();
  await dying.cut();
  const found = (await observer.wait(last))[0].packet.properties;
  if (Date.now() - start < 500) throw new Error("the will did not wait for its delay of 1 s");
  equal("user properties", Object.entries(found.userProperties), [["k", "v"]]);
  for (const name of Object.keys(properties)) if (name !== "userProperties") equal(name, found[name], properties[name]);
  const leaving = await Peer.start("5", { will: { ...message, payload: Buffer.from("left") } });
  await leaving.stop({ reasonCode: 0x04 });
  equal("will at DISCONNECT 0x04", (await observer.wait(last, 2))[1].payload, "left");
}

export const SCENARIOS = [
  ["user-properties", userProperties],
  ["content", content],
  ["expiry", expiry],
  ["subscription-identifiers", subscriptionIdentifiers],
  ["topic-alias", topicAlias],
  ["session-expiry", sessionExpiry],
  ["receive-maximum", () => receiveMaximum(1)],
  ["receive-maximum-qos2", () => receiveMaximum(2)],
  ["reason-codes", reasonCodes],
  ["protocol-error", protocolError],
  ["taken-over", takenOver],
  ["request-response", requestResponse],
  ["options", options],
  ["will-properties", willProperties],
].map(([name, scenario]) => [["5"], name, scenario]);
