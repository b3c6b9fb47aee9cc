package main

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/eclipse/paho.golang/paho"
)

func connect() {
	peer := start(options{})
	equal("session present", peer.connack().SessionPresent, false)
	peer.stop()
	empty := ""
	nameless := start(options{id: &empty})
	if nameless.connack().Properties.AssignedClientID == "" {
		fail("no assigned client identifier")
	}
}

func qos() {
	publisher, subscriber := start(options{}), start(options{})
	for level := byte(0); level <= 2; level++ {
		name := topic("qos")
		equal("granted", subscriber.subscribe(at(name, level)), []byte{level})
		var wanted []string
		for published := byte(0); published <= 2; published++ {
			publisher.publish(name, fmt.Sprint(published), published)
			wanted = append(wanted, fmt.Sprintf("%d:%d", published, min(published, level)))
		}
		// Messages of different QoS may overtake one another.
		var found []string
		for _, message := range subscriber.wait(name, 3) {
			found = append(found, fmt.Sprintf("%s:%d", message.Payload, message.QoS))
		}
		sort.Strings(found)
		equal(fmt.Sprintf("QoS at a subscription of QoS %d", level), found, wanted)
	}
}

func several() {
	base := topic("several")
	publisher, subscriber := start(options{}), start(options{})
	granted := subscriber.subscribe(at(base+"/a", 0), at(base+"/+/b", 1), at(base+"/c/#", 2))
	equal("granted", granted, []byte{0, 1, 2})
	for level, name := range []string{"a", "x/b", "c/d/e"} {
		publisher.publish(base+"/"+name, name, 2)
		message := subscriber.one(base + "/" + name)
		equal(name, []any{string(message.Payload), int(message.QoS)}, []any{name, level})
	}
}

func unsubscribe() {
	gone, kept := topic("gone"), topic("kept")
	publisher, subscriber := start(options{}), start(options{})
	subscriber.subscribe(at(gone, 1), at(kept, 1))
	publisher.publish(gone, "1", 1)
	subscriber.one(gone)
	ctx, cancel := timed()
	defer cancel()
	_, err := subscriber.Unsubscribe(ctx, &paho.Unsubscribe{Topics: []string{gone}})
	check("unsubscribe", err)
	publisher.publish(gone, "2", 1)
	publisher.publish(kept, "end", 1)
	subscriber.one(kept)
	equal("messages on the filter given up", len(subscriber.on(gone)), 1)
}

func retained() {
	kept, end := topic("retained"), topic("end")
	publisher, early := start(options{}), start(options{})
	early.subscribe(at(kept, 1))
	publisher.retain(kept, "value")
	equal("RETAIN at an old subscription", early.one(kept).Retain, false)
	late, last := start(options{}), start(options{})
	late.subscribe(at(kept, 1))
	message := late.one(kept)
	equal("RETAIN at a new subscription", []any{message.Retain, string(message.Payload)}, []any{true, "value"})
	publisher.retain(kept, "")
	last.subscribe(at(kept, 1), at(end, 1))
	publisher.publish(end, "end", 1)
	last.one(end)
	equal("messages after it was cleared", len(last.on(kept)), 0)
}

func willTo(name, payload string) *paho.WillMessage {
	return &paho.WillMessage{Topic: name, Payload: []byte(payload), QoS: 1}
}

func will() {
	last := topic("will")
	observer := start(options{})
	observer.subscribe(at(last, 1))
	start(options{will: willTo(last, "gone")}).cut()
	message := observer.one(last)
	equal("will", []any{string(message.Payload), message.QoS, message.Retain}, []any{"gone", byte(1), false})
}

func willNot() {
	last, end, id := topic("will"), topic("end"), clientID()
	observer := start(options{})
	observer.subscribe(at(last, 1), at(end, 1))
	start(options{id: &id, will: willTo(last, "gone")}).stop()
	// The same identifier is served anew only when the broker is done with the first connection.
	start(options{id: &id}).publish(end, "end", 1)
	observer.one(end)
	equal("wills after DISCONNECT", len(observer.on(last)), 0)
}

func lasting(id string, seconds uint32) options {
	return options{id: &id, keep: true, connect: paho.ConnectProperties{SessionExpiryInterval: &seconds}}
}

func session() {
	base, id := topic("session"), clientID()
	first := start(lasting(id, 300))
	first.subscribe(at(base+"/#", 2))
	first.stop()
	publisher := start(options{})
	for level := byte(1); level <= 2; level++ {
		publisher.publish(fmt.Sprintf("%s/%d", base, level), fmt.Sprintf("offline %d", level), level)
	}
	second := start(lasting(id, 300))
	equal("session present", second.connack().SessionPresent, true)
	for level := byte(1); level <= 2; level++ {
		message := second.one(fmt.Sprintf("%s/%d", base, level))
		equal("message", []any{string(message.Payload), message.QoS}, []any{fmt.Sprintf("offline %d", level), level})
	}
	second.stop()
	equal("session present after a clean start", start(options{id: &id}).connack().SessionPresent, false)
}

func shared() {
	base, end := topic("shared"), topic("end")
	publisher := start(options{})
	members := []*peer{start(options{}), start(options{})}
	for _, member := range members {
		equal("granted", member.subscribe(at("$share/group/"+base, 1), at(end, 1)), []byte{1, 1})
	}
	var wanted, found []int
	for number := range 40 {
		publisher.publish(base, fmt.Sprint(number), 1)
		wanted = append(wanted, number)
	}
	publisher.publish(end, "end", 1)
	for _, member := range members {
		member.one(end)
	}
	until("40 messages", func() bool { return len(members[0].on(base))+len(members[1].on(base)) >= 40 })
	for _, member := range members {
		if len(member.on(base)) == 0 {
			fail("one member got all messages")
		}
		for _, message := range member.on(base) {
			number, err := strconv.Atoi(string(message.Payload))
			check("payload", err)
			found = append(found, number)
		}
	}
	sort.Ints(found)
	equal("messages of both members", found, wanted)
}

func large() {
	base := topic("large")
	payload := make([]byte, 200_000)
	for i := range payload {
		payload[i] = byte(i % 251)
	}
	publisher, subscriber := start(options{}), start(options{})
	subscriber.subscribe(at(base, 2))
	for level := byte(0); level <= 2; level++ {
		publisher.publish(base, string(payload), level)
	}
	for _, message := range subscriber.wait(base, 3) {
		equal("payload is whole", string(message.Payload) == string(payload), true)
	}
}

// autoReconnect: autopaho connects again by itself after the connection broke, to the session that waits for it.
func autoReconnect() {
	base, id := topic("reconnect"), clientID()
	opts := lasting(id, 300)
	opts.keep, opts.reconnect = false, true
	peer := start(opts)
	peer.subscribe(at(base, 1))
	peer.TerminateConnectionForTest()
	until("the second connection", func() (again bool) {
		peer.locked(func() { again = len(peer.connacks) > 1 })
		return again
	})
	equal("session present", peer.connacks[1].SessionPresent, true)
	start(options{}).publish(base, "after", 1)
	equal("message", string(peer.one(base).Payload), "after")
}

func tlsCA() {
	_, err := tryStart(options{ca: "OTHER_CA"})
	if err == nil {
		fail("the broker's certificate was accepted with another authority")
	}
	if !strings.Contains(err.Error(), "certificate") {
		fail("not because of the certificate: %w", err)
	}
}

func tlsClientCertificate() {
	base := topic("certificate")
	peer := start(options{transport: "mtls", certificate: true})
	peer.subscribe(at(base, 1))
	peer.publish(base, "mine", 1)
	peer.one(base)
	if _, err := tryStart(options{transport: "mtls"}); err == nil {
		fail("served without a client certificate")
	}
}
