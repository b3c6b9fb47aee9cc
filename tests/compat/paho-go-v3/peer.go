package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const deadline = 15 * time.Second

var transport string

// failure is what ends a scenario; run prints it.
type failure struct{ error }

func fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

func check(what string, err error) {
	if err != nil {
		fail("%s: %w", what, err)
	}
}

func equal(what string, found, wanted any) {
	if !reflect.DeepEqual(found, wanted) {
		fail("%s: %v instead of %v", what, found, wanted)
	}
}

func until(what string, condition func() bool) {
	for end := time.Now().Add(deadline); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			fail("not within %s: %s", deadline, what)
		}
	}
}

// done waits for a token and gives its error.
func done(token mqtt.Token) error {
	if !token.WaitTimeout(deadline) {
		return errors.New("not within " + deadline.String())
	}
	return token.Error()
}

func setting(name, fallback string) string {
	if value := os.Getenv("RAFTMQ_COMPAT_" + name); value != "" {
		return value
	}
	return fallback
}

func unique() string {
	bytes := make([]byte, 6)
	_, _ = rand.Read(bytes) // never fails
	return hex.EncodeToString(bytes)
}

// topic is one that no other run uses.
func topic(name string) string { return "compat/" + unique() + "/" + name }

// clientID has at most 23 characters, as 3.1 wants it.
func clientID() string { return "compat" + unique() }

// options of a peer; what is left out is as most clients have it.
type options struct {
	id          *string
	keep        bool // clean session is false
	will        string
	cuttable    bool
	transport   string // default: the one of this run
	ca          string // the setting that names the authority's file
	certificate bool
}

type peer struct {
	mqtt.Client
	present  bool
	relay    *relay
	mu       sync.Mutex
	messages []mqtt.Message
	lost     bool
}

var open []*peer

// start is a client whose CONNACK accepts.
func start(version uint, opts options) *peer {
	p, err := tryStart(version, opts)
	check("connect", err)
	return p
}

func tryStart(version uint, opts options) (*peer, error) {
	if opts.transport == "" {
		opts.transport = transport
	}
	if opts.id == nil {
		id := clientID()
		opts.id = &id
	}
	p := &peer{}
	url, err := p.url(opts)
	if err != nil {
		return nil, err
	}
	config := mqtt.NewClientOptions().AddBroker(url).SetClientID(*opts.id).SetCleanSession(!opts.keep).
		SetProtocolVersion(version).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(deadline).
		SetDefaultPublishHandler(func(_ mqtt.Client, message mqtt.Message) {
			p.locked(func() { p.messages = append(p.messages, message) })
		}).
		SetConnectionLostHandler(func(mqtt.Client, error) { p.locked(func() { p.lost = true }) })
	if opts.will != "" {
		config.SetWill(opts.will, "gone", 1, false)
	}
	secured, err := tlsConfig(opts)
	if err != nil {
		return nil, err
	}
	if secured != nil {
		config.SetTLSConfig(secured)
	}
	p.Client = mqtt.NewClient(config)
	token := p.Connect()
	if err := done(token); err != nil {
		return nil, err
	}
	p.present = token.(*mqtt.ConnectToken).SessionPresent()
	open = append(open, p)
	return p, nil
}

func (p *peer) url(opts options) (string, error) {
	scheme := map[string]string{"tcp": "tcp", "tls": "ssl", "mtls": "ssl", "ws": "ws", "wss": "wss"}[opts.transport]
	name := map[string]string{"tcp": "TCP", "tls": "TLS", "mtls": "MTLS", "ws": "WS", "wss": "WSS"}[opts.transport]
	host, port := setting("HOST", "localhost"), setting(name, "")
	if opts.cuttable {
		var err error
		if p.relay, err = newRelay(net.JoinHostPort(host, port)); err != nil {
			return "", err
		}
		port = p.relay.port()
	}
	url := scheme + "://" + net.JoinHostPort(host, port)
	if scheme == "ws" || scheme == "wss" {
		url += setting("WS_PATH", "/mqtt")
	}
	return url, nil
}

func tlsConfig(opts options) (*tls.Config, error) {
	if opts.transport != "tls" && opts.transport != "mtls" && opts.transport != "wss" {
		return nil, nil
	}
	file := opts.ca
	if file == "" {
		file = "CA"
	}
	pem, err := os.ReadFile(setting(file, ""))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: setting("HOST", "localhost")}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + file)
	}
	if opts.certificate {
		certificate, err := tls.LoadX509KeyPair(setting("CERT", ""), setting("KEY", ""))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

func (p *peer) locked(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// subscribe sends one SUBSCRIBE and gives the QoS granted to each filter.
func (p *peer) subscribe(filters map[string]byte) map[string]byte {
	token := p.SubscribeMultiple(filters, nil)
	check("subscribe", done(token))
	return token.(*mqtt.SubscribeToken).Result()
}

func (p *peer) publish(name, payload string, qos byte) {
	check("publish", done(p.Publish(name, qos, false, payload)))
}

func (p *peer) retain(name, payload string) {
	check("publish", done(p.Publish(name, 1, true, payload)))
}

func (p *peer) on(name string) (found []mqtt.Message) {
	p.locked(func() {
		for _, message := range p.messages {
			if message.Topic() == name {
				found = append(found, message)
			}
		}
	})
	return found
}

// wait gives the messages of a topic, once there are so many; more than that is a failure.
func (p *peer) wait(name string, count int) []mqtt.Message {
	until(fmt.Sprintf("%d messages on %s", count, name), func() bool { return len(p.on(name)) >= count })
	equal("messages on "+name, len(p.on(name)), count)
	return p.on(name)
}

func (p *peer) one(name string) mqtt.Message { return p.wait(name, 1)[0] }

// cut ends the connection without DISCONNECT.
func (p *peer) cut() {
	p.relay.cut()
	until("the end of the connection", func() (lost bool) {
		p.locked(func() { lost = p.lost })
		return lost
	})
}

// stop sends DISCONNECT.
func (p *peer) stop() { p.Disconnect(100) }

// closeAll ends what a scenario left open.
func closeAll() {
	for _, p := range open {
		if p.IsConnectionOpen() {
			p.Disconnect(0)
		}
	}
	open = nil
}
