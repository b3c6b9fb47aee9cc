// paho.golang, its plain client and autopaho, through every scenario: paho-go paho|autopaho tcp|tls|ws|wss [SCENARIO…].
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: paho-go paho|autopaho tcp|tls|ws|wss [SCENARIO…]")
		os.Exit(2)
	}
	flavour, transport = os.Args[1], os.Args[2]
	failed := false
	run := func(name string, scenario func()) {
		if only := os.Args[3:]; len(only) > 0 {
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
	for _, scenario := range []struct {
		name string
		run  func()
	}{
		{"connect", connect}, {"qos", qos}, {"several", several}, {"unsubscribe", unsubscribe}, {"retained", retained},
		{"will", will}, {"will-not", willNot}, {"session", session}, {"shared", shared}, {"large", large},
		{"user-properties", userProperties}, {"content", content}, {"expiry", expiry},
		{"subscription-identifiers", subscriptionIdentifiers}, {"topic-alias", topicAlias}, {"session-expiry", sessionExpiry},
		{"receive-maximum", receiveMaximum(1)}, {"receive-maximum-qos2", receiveMaximum(2)}, {"reason-codes", reasonCodes},
		{"protocol-error", protocolError}, {"taken-over", takenOver}, {"request-response", requestResponse},
		{"options", subscribeOptions}, {"will-properties", willProperties},
	} {
		run(scenario.name+"/5", scenario.run)
	}
	if flavour == "autopaho" {
		run("auto-reconnect/5", autoReconnect)
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
