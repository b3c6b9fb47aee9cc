// paho.mqtt.golang, the client of 3.1 and 3.1.1, through every scenario: paho-go-v3 tcp|tls|ws|wss [SCENARIO…].
package main

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
)

func connect(version uint) {
	peer := start(version, options{})
	equal("session present", peer.present, false)
	peer.stop()
	if version == 4 {
		empty := ""
		start(version, options{id: &empty})
	}
}

func qos(version uint) {
	publisher, subscriber := start(version, options{}), start(version, options{})
	for level := byte(0); level <= 2; level++ {
		name := topic("qos")
		equal("granted", subscriber.subscribe(map[string]byte{name: level}), map[string]byte{name: level})
		var wanted, found []string
		for published := byte(0); published <= 2; published++ {
			publisher.publish(name, fmt.Sprint(published), published)
			wanted = append(wanted, fmt.Sprintf("%d:%d", published, min(published, level)))
		}
		// Messages of different QoS may overtake one another.
		for _, message := range subscriber.wait(name, 3) {
			found = append(found, fmt.Sprintf("%s:%d", message.Payload(), message.Qos()))
		}
		sort.Strings(found)
		equal(fmt.Sprintf("QoS at a subscription of QoS %d", level), found, wanted)
	}
}

func several(version uint) {
	base := topic("several")
	publisher, subscriber := start(version, options{}), start(version, options{})
	filters := map[string]byte{base + "/a": 0, base + "/+/b": 1, base + "/c/#": 2}
	equal("granted", subscriber.subscribe(filters), filters)
	for level, name := range []string{"a", "x/b", "c/d/e"} {
		publisher.publish(base+"/"+name, name, 2)
		message := subscriber.one(base + "/" + name)
		equal(name, []any{string(message.Payload()), int(message.Qos())}, []any{name, level})
	}
}

func unsubscribe(version uint) {
	gone, kept := topic("gone"), topic("kept")
	publisher, subscriber := start(version, options{}), start(version, options{})
	subscriber.subscribe(map[string]byte{gone: 1, kept: 1})
	publisher.publish(gone, "1", 1)
	subscriber.one(gone)
	check("unsubscribe", done(subscriber.Unsubscribe(gone)))
	publisher.publish(gone, "2", 1)
	publisher.publish(kept, "end", 1)
	subscriber.one(kept)
	equal("messages on the filter given up", len(subscriber.on(gone)), 1)
}

func retained(version uint) {
	kept, end := topic("retained"), topic("end")
	publisher, early := start(version, options{}), start(version, options{})
	early.subscribe(map[string]byte{kept: 1})
	publisher.retain(kept, "value")
	equal("RETAIN at an old subscription", early.one(kept).Retained(), false)
	late, last := start(version, options{}), start(version, options{})
	late.subscribe(map[string]byte{kept: 1})
	message := late.one(kept)
	equal("RETAIN at a new subscription", []any{message.Retained(), string(message.Payload())}, []any{true, "value"})
	publisher.retain(kept, "")
	last.subscribe(map[string]byte{kept: 1, end: 1})
	publisher.publish(end, "end", 1)
	last.one(end)
	equal("messages after it was cleared", len(last.on(kept)), 0)
}

func will(version uint) {
	last := topic("will")
	observer := start(version, options{})
	observer.subscribe(map[string]byte{last: 1})
	start(version, options{will: last, cuttable: true}).cut()
	message := observer.one(last)
	equal("will", []any{string(message.Payload()), message.Qos(), message.Retained()}, []any{"gone", byte(1), false})
}

func willNot(version uint) {
	last, end, id := topic("will"), topic("end"), clientID()
	observer := start(version, options{})
	observer.subscribe(map[string]byte{last: 1, end: 1})
	start(version, options{id: &id, will: last}).stop()
	// The same identifier is served anew only when the broker is done with the first connection.
	start(version, options{id: &id}).publish(end, "end", 1)
	observer.one(end)
	equal("wills after DISCONNECT", len(observer.on(last)), 0)
}

func session(version uint) {
	base, id := topic("session"), clientID()
	first := start(version, options{id: &id, keep: true})
	first.subscribe(map[string]byte{base + "/#": 2})
	first.stop()
	publisher := start(version, options{})
	for level := byte(1); level <= 2; level++ {
		publisher.publish(fmt.Sprintf("%s/%d", base, level), fmt.Sprintf("offline %d", level), level)
	}
	second := start(version, options{id: &id, keep: true})
	if version == 4 { // CONNACK of 3.1 has no such flag
		equal("session present", second.present, true)
	}
	for level := byte(1); level <= 2; level++ {
		message := second.one(fmt.Sprintf("%s/%d", base, level))
		equal("message", []any{string(message.Payload()), message.Qos()}, []any{fmt.Sprintf("offline %d", level), level})
	}
	second.stop()
	equal("session present after a clean start", start(version, options{id: &id}).present, false)
}

func shared(version uint) {
	base, end := topic("shared"), topic("end")
	publisher := start(version, options{})
	members := []*peer{start(version, options{}), start(version, options{})}
	filters := map[string]byte{"$share/group/" + base: 1, end: 1}
	for _, member := range members {
		equal("granted", member.subscribe(filters), filters)
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
			number, err := strconv.Atoi(string(message.Payload()))
			check("payload", err)
			found = append(found, number)
		}
	}
	sort.Ints(found)
	equal("messages of both members", found, wanted)
}

func large(version uint) {
	base := topic("large")
	payload := make([]byte, 200_000)
	for i := range payload {
		payload[i] = byte(i % 251)
	}
	publisher, subscriber := start(version, options{}), start(version, options{})
	subscriber.subscribe(map[string]byte{base: 2})
	for level := byte(0); level <= 2; level++ {
		publisher.publish(base, string(payload), level)
	}
	for _, message := range subscriber.wait(base, 3) {
		equal("payload is whole", string(message.Payload()) == string(payload), true)
	}
}

func tlsCA() {
	_, err := tryStart(4, options{ca: "OTHER_CA"})
	if err == nil {
		fail("the broker's certificate was accepted with another authority")
	}
	if !strings.Contains(err.Error(), "certificate") {
		fail("not because of the certificate: %w", err)
	}
}

func tlsClientCertificate() {
	base := topic("certificate")
	peer := start(4, options{transport: "mtls", certificate: true})
	peer.subscribe(map[string]byte{base: 1})
	peer.publish(base, "mine", 1)
	peer.one(base)
	if _, err := tryStart(4, options{transport: "mtls"}); err == nil {
		fail("served without a client certificate")
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: paho-go-v3 tcp|tls|ws|wss [SCENARIO…]")
		os.Exit(2)
	}
	transport = os.Args[1]
	failed := false
	run := func(name string, scenario func()) {
		if only := os.Args[2:]; len(only) > 0 {
			wanted := false
			for _, prefix := range only {
				wanted = wanted || strings.HasPrefix(name, prefix)
			}
			if !wanted {
				return
			}
		}
		if err := try(scenario); err != nil {
			failed = true
			fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Printf("ok %s\n", name)
		}
	}
	for _, version := range []struct {
		label string
		level uint
	}{{"3.1", 3}, {"3.1.1", 4}} {
		for _, scenario := range []struct {
			name string
			run  func(uint)
		}{
			{"connect", connect}, {"qos", qos}, {"several", several}, {"unsubscribe", unsubscribe}, {"retained", retained},
			{"will", will}, {"will-not", willNot}, {"session", session}, {"shared", shared}, {"large", large},
		} {
			if scenario.name != "shared" || version.level == 4 {
				run(scenario.name+"/"+version.label, func() { scenario.run(version.level) })
			}
		}
	}
	if transport == "tls" || transport == "wss" {
		run("tls-ca", tlsCA)
	}
	if transport == "tls" {
		run("tls-client-certificate", tlsClientCertificate)
	}
	if failed {
		os.Exit(1)
	}
}

// try runs a scenario and gives what ended it early.
func try(scenario func()) (err error) {
	defer closeAll()
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			err = reason.error
		default:
			panic(reason)
		}
	}()
	scenario()
	return nil
}
