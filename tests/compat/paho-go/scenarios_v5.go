package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/extensions/topicaliases"
)

func userProperties() {
	base := topic("user")
	sent := paho.UserProperties{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "a", Value: "3"}, {Key: "größe", Value: "5 µm"}}
	publisher, subscriber := start(options{}), start(options{})
	subscriber.subscribe(at(base, 1))
	publisher.publishWith(base, "x", paho.PublishProperties{User: sent})
	equal("user properties", subscriber.one(base).Properties.User, sent)
}

func content() {
	base := topic("content")
	sent := paho.PublishProperties{
		ContentType: "text/plain", ResponseTopic: base + "/answers", CorrelationData: []byte{0, 1, 255}, PayloadFormat: paho.Byte(1),
	}
	publisher, subscriber := start(options{}), start(options{})
	subscriber.subscribe(at(base, 1))
	publisher.publishWith(base, "text", sent)
	found := subscriber.one(base).Properties
	equal("content type", found.ContentType, sent.ContentType)
	equal("response topic", found.ResponseTopic, sent.ResponseTopic)
	equal("correlation data", found.CorrelationData, sent.CorrelationData)
	equal("payload format", found.PayloadFormat, sent.PayloadFormat)
}

func expiry() {
	base, id := topic("expiry"), clientID()
	first := start(lasting(id, 300))
	first.subscribe(at(base+"/#", 1))
	first.stop()
	publisher := start(options{})
	publisher.publishWith(base+"/long", "x", paho.PublishProperties{MessageExpiry: paho.Uint32(100)})
	publisher.publishWith(base+"/short", "x", paho.PublishProperties{MessageExpiry: paho.Uint32(1)})
	// The interval itself is what is tried.
	time.Sleep(2100 * time.Millisecond)
	second := start(lasting(id, 0))
	publisher.publish(base+"/end", "x", 1)
	left := second.one(base + "/long").Properties.MessageExpiry
	if left == nil || *left < 60 || *left > 98 {
		fail("expiry of 100 s after 2.1 s: %v", left)
	}
	second.one(base + "/end")
	equal("expired messages", len(second.on(base+"/short")), 0)
}

func subscriptionIdentifiers() {
	base := topic("identifiers")
	publisher, subscriber := start(options{}), start(options{})
	small, largest := 1, 268435455
	subscriber.subscribeWith(&small, at(base+"/one/+", 1))
	subscriber.subscribeWith(&largest, at(base+"/two/#", 1))
	subscriber.subscribe(at(base+"/none", 1))
	for _, try := range []struct {
		name   string
		wanted *int
	}{{"one/a", &small}, {"two/b", &largest}, {"none", nil}} {
		publisher.publish(base+"/"+try.name, "x", 1)
		equal(try.name, subscriber.one(base+"/"+try.name).Properties.SubscriptionIdentifier, try.wanted)
	}
}

func topicAlias() {
	base := topic("alias")
	subscriber := start(options{})
	subscriber.subscribe(at(base+"/#", 1))
	// First by hand, then with the extension that assigns them.
	byHand := start(options{})
	if maximum := byHand.connack().Properties.TopicAliasMaximum; maximum == nil || *maximum < 2 {
		fail("the broker takes fewer than two topic aliases")
	}
	for _, message := range []struct {
		name    string
		alias   uint16
		payload string
	}{{"/a", 1, "1"}, {"", 1, "2"}, {"/b", 2, "3"}, {"", 2, "4"}, {"/c", 1, "5"}, {"", 1, "6"}} {
		name := ""
		if message.name != "" {
			name = base + message.name
		}
		byHand.publishWith(name, message.payload, paho.PublishProperties{TopicAlias: &message.alias})
	}
	automatic := start(options{publishHook: topicaliases.NewTAHandler(2).PublishHook})
	for _, payload := range []string{"7", "8", "9"} {
		automatic.publish(base+"/d", payload, 1)
	}
	for _, wanted := range [][2]string{{"/a", "12"}, {"/b", "34"}, {"/c", "56"}, {"/d", "789"}} {
		var found strings.Builder
		for _, message := range subscriber.wait(base+wanted[0], len(wanted[1])) {
			found.Write(message.Payload)
		}
		equal(wanted[0], found.String(), wanted[1])
	}
}

func sessionExpiry() {
	last, id := topic("over"), clientID()
	observer := start(options{})
	observer.subscribe(at(last, 1))
	// A will whose delay is longer than the session lives is published at the session's end: no clock of ours is needed.
	opts := lasting(id, 1)
	opts.will, opts.willProperties = willTo(last, "over"), &paho.WillProperties{WillDelayInterval: paho.Uint32(300)}
	start(opts).cut()
	observer.one(last)
	after := start(lasting(id, 300))
	equal("session present after its expiry", after.connack().SessionPresent, false)
	after.stop()
	opts = lasting(id, 300)
	opts.disconnect = &paho.Disconnect{Properties: &paho.DisconnectProperties{SessionExpiryInterval: paho.Uint32(0)}}
	before := start(opts)
	equal("session present before its expiry", before.connack().SessionPresent, true)
	before.stop()
	ended := start(lasting(id, 0))
	equal("session present after DISCONNECT with expiry 0", ended.connack().SessionPresent, false)
}

func receiveMaximum(level byte) func() {
	return func() {
		base := topic("maximum")
		publisher := start(options{})
		subscriber := start(options{manual: true, connect: paho.ConnectProperties{ReceiveMaximum: paho.Uint16(2)}})
		subscriber.subscribe(at(base, 2))
		for number := range 6 {
			publisher.publish(base, fmt.Sprint(number), level)
		}
		until("two messages", func() bool { return len(subscriber.on(base)) >= 2 })
		// A further exchange with the broker, so that a third message would have come before its end.
		subscriber.subscribe(at(base+"/other", 1))
		for acknowledged := range 6 {
			until(fmt.Sprintf("message %d", acknowledged+1), func() bool { return len(subscriber.on(base)) > acknowledged })
			messages := subscriber.on(base)
			if pending := len(messages) - acknowledged; pending > 2 {
				fail("%d messages without acknowledgement, receive maximum 2", pending)
			}
			check("acknowledgement", messages[acknowledged].client.Ack(messages[acknowledged].Publish))
		}
		var found strings.Builder
		for _, message := range subscriber.wait(base, 6) {
			found.Write(message.Payload)
		}
		equal("messages", found.String(), "012345")
	}
}

func reasonCodes() {
	base := topic("reasons")
	peer := start(options{})
	peer.subscribe(at(base, 1))
	ctx, cancel := timed()
	defer cancel()
	// paho gives an error when one of the codes is not success, with the packet.
	unsuback, err := peer.Unsubscribe(ctx, &paho.Unsubscribe{Topics: []string{base + "/never", base}})
	if unsuback == nil {
		fail("no UNSUBACK: %w", err)
	}
	equal("codes of UNSUBACK", unsuback.Reasons, []byte{0x11, 0x00})
}

func protocolError() {
	peer := start(options{})
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// [MQTT-3.8.3-4]: no local at a shared subscription.
	go func() {
		_, _ = peer.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
			{Topic: "$share/g/" + topic("error"), QoS: 1, NoLocal: true},
		}})
	}()
	ended(peer, 0x82)
}

func takenOver() {
	id := clientID()
	first := start(options{id: &id})
	start(options{id: &id})
	ended(first, 0x8E)
}

// ended waits for the end of the connection, which the broker announces with this reason code.
func ended(peer *peer, code byte) {
	until("the end of the connection", peer.isOver)
	peer.stopped = true
	peer.locked(func() {
		if peer.end == nil {
			fail("closed without DISCONNECT 0x%02X", code)
		}
		equal("reason code of DISCONNECT", peer.end.ReasonCode, code)
	})
}

func requestResponse() {
	base := topic("request")
	requester, responder := start(options{}), start(options{})
	responder.subscribe(at(base, 1))
	requester.subscribe(at(base+"/answers", 1))
	requester.publishWith(base, "question", paho.PublishProperties{ResponseTopic: base + "/answers", CorrelationData: []byte{7, 0}})
	question := responder.one(base).Properties
	responder.publishWith(question.ResponseTopic, "answer", paho.PublishProperties{CorrelationData: question.CorrelationData})
	answer := requester.one(base + "/answers")
	equal("answer", []any{string(answer.Payload), answer.Properties.CorrelationData}, []any{"answer", []byte{7, 0}})
}

func subscribeOptions() {
	base := topic("options")
	publisher, peer := start(options{}), start(options{})
	peer.subscribe(paho.SubscribeOptions{Topic: base + "/local", QoS: 1, NoLocal: true})
	peer.publish(base+"/local", "own", 1)
	publisher.publish(base+"/local", "another's", 1)
	equal("no local", string(peer.one(base+"/local").Payload), "another's")

	peer.subscribe(paho.SubscribeOptions{Topic: base + "/kept", QoS: 1, RetainAsPublished: true})
	publisher.retain(base+"/kept", "1")
	equal("RETAIN as published", peer.one(base+"/kept").Retain, true)

	publisher.retain(base+"/never", "1")
	publisher.retain(base+"/once", "1")
	peer.subscribe(paho.SubscribeOptions{Topic: base + "/never", QoS: 1, RetainHandling: 2})
	for range 2 {
		peer.subscribe(paho.SubscribeOptions{Topic: base + "/once", QoS: 1, RetainHandling: 1})
	}
	peer.subscribe(at(base+"/end", 1))
	publisher.publish(base+"/end", "end", 1)
	peer.one(base + "/end")
	equal("retain handling 2", len(peer.on(base+"/never")), 0)
	peer.one(base + "/once")
	for _, name := range []string{"/kept", "/never", "/once"} {
		publisher.retain(base+name, "")
	}
}

func willProperties() {
	last := topic("will")
	observer := start(options{})
	observer.subscribe(at(last, 1))
	// paho 0.23 sends no other properties of a will, whatever is set: it packs them as those of CONNECT.
	sent := &paho.WillProperties{WillDelayInterval: paho.Uint32(1), User: paho.UserProperties{{Key: "k", Value: "v"}}}
	dying := start(options{
		will: willTo(last, "gone"), willProperties: sent, connect: paho.ConnectProperties{SessionExpiryInterval: paho.Uint32(300)},
	})
	cut := time.Now()
	dying.cut()
	found := observer.one(last).Properties
	if time.Since(cut) < 500*time.Millisecond {
		fail("the will did not wait for its delay of 1 s")
	}
	equal("user properties", found.User, sent.User)
	start(options{will: willTo(last, "left"), disconnect: &paho.Disconnect{ReasonCode: 0x04}}).stop()
	equal("will at DISCONNECT 0x04", string(observer.wait(last, 2)[1].Payload), "left")
}
