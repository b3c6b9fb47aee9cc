package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

const deadline = 15 * time.Second

// flavour is the client of this run: paho, on a connection made here, or autopaho, which makes its own.
var flavour, transport string

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

func clientID() string { return "compat" + unique() }

// options of a peer; what is left out is as most clients have it.
type options struct {
	id             *string
	keep           bool // clean start is false
	will           *paho.WillMessage
	willProperties *paho.WillProperties
	connect        paho.ConnectProperties
	disconnect     *paho.Disconnect // what stop sends
	manual         bool             // messages are acknowledged by Ack only
	publishHook    func(*paho.Publish)
	transport      string // default: the one of this run
	ca             string // the setting that names the authority's file
	certificate    bool
	reconnect      bool // autopaho connects again
}

// operations are what both clients have.
type operations interface {
	Subscribe(context.Context, *paho.Subscribe) (*paho.Suback, error)
	Unsubscribe(context.Context, *paho.Unsubscribe) (*paho.Unsuback, error)
	Publish(context.Context, *paho.Publish) (*paho.PublishResponse, error)
	TerminateConnectionForTest()
}

type received struct {
	*paho.Publish
	client *paho.Client
}

type peer struct {
	operations
	opts     options
	mu       sync.Mutex
	messages []received
	connacks []*paho.Connack
	end      *paho.Disconnect // the broker's DISCONNECT
	over     bool
	stopped  bool
	refused  error
	shut     func(*paho.Disconnect) error
	cancel   context.CancelFunc
}

var open []*peer

func (p *peer) locked(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// start is a client whose CONNACK accepts.
func start(opts options) *peer {
	p, err := tryStart(opts)
	check("connect", err)
	return p
}

func tryStart(opts options) (*peer, error) {
	if opts.transport == "" {
		opts.transport = transport
	}
	if opts.id == nil {
		id := clientID()
		opts.id = &id
	}
	p := &peer{opts: opts}
	config := paho.ClientConfig{
		ClientID: *opts.id,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(pr paho.PublishReceived) (bool, error) {
			p.locked(func() { p.messages = append(p.messages, received{pr.Packet, pr.Client}) })
			return true, nil
		}},
		OnServerDisconnect:         func(d *paho.Disconnect) { p.locked(func() { p.end, p.over = d, true }) },
		OnClientError:              func(error) { p.locked(func() { p.over = true }) },
		PublishHook:                opts.publishHook,
		EnableManualAcknowledgment: opts.manual,
		SendAcksInterval:           10 * time.Millisecond,
	}
	var err error
	if flavour == "paho" {
		err = p.connectPaho(config)
	} else {
		err = p.connectAutopaho(config)
	}
	if err == nil {
		open = append(open, p)
	}
	return p, err
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

func address(opts options) *url.URL {
	scheme := map[string]string{"tcp": "mqtt", "tls": "mqtts", "mtls": "mqtts", "ws": "ws", "wss": "wss"}[opts.transport]
	port := os.Getenv("RAFTMQ_COMPAT_" + map[string]string{"tcp": "TCP", "tls": "TLS", "mtls": "MTLS", "ws": "WS", "wss": "WSS"}[opts.transport])
	result := &url.URL{Scheme: scheme, Host: net.JoinHostPort(setting("HOST", "localhost"), port)}
	if scheme == "ws" || scheme == "wss" {
		result.Path = setting("WS_PATH", "/mqtt")
	}
	return result
}

func (p *peer) connectPaho(config paho.ClientConfig) error {
	secured, err := tlsConfig(p.opts)
	if err != nil {
		return err
	}
	host := address(p.opts).Host
	if secured == nil {
		config.Conn, err = net.DialTimeout("tcp", host, deadline)
	} else {
		var conn *tls.Conn
		if conn, err = tls.Dial("tcp", host, secured); err == nil {
			config.Conn = packets.NewThreadSafeConn(conn)
		}
	}
	if err != nil {
		return err
	}
	client := paho.NewClient(config)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	connack, err := client.Connect(ctx, &paho.Connect{
		ClientID: *p.opts.id, CleanStart: !p.opts.keep, KeepAlive: 30,
		WillMessage: p.opts.will, WillProperties: p.opts.willProperties, Properties: p.connectProperties(),
	})
	if err != nil {
		return err
	}
	p.operations, p.connacks = client, []*paho.Connack{connack}
	p.shut = client.Disconnect
	return nil
}

func (p *peer) connectProperties() *paho.ConnectProperties {
	properties := p.opts.connect
	properties.RequestProblemInfo = true
	return &properties
}

func (p *peer) connectAutopaho(config paho.ClientConfig) error {
	secured, err := tlsConfig(p.opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel // when the scenario is over
	manager, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{address(p.opts)}, TlsCfg: secured, KeepAlive: 30,
		CleanStartOnInitialConnection: !p.opts.keep,
		ReconnectBackoff:              autopaho.NewConstantBackoff(10 * time.Millisecond),
		OnConnectionUp: func(_ *autopaho.ConnectionManager, connack *paho.Connack) {
			p.locked(func() { p.connacks = append(p.connacks, connack) })
		},
		OnConnectionDown: func() bool { p.locked(func() { p.over = true }); return p.opts.reconnect },
		OnConnectError:   func(err error) { p.locked(func() { p.refused = err }) },
		WillMessage:      p.opts.will, WillProperties: p.opts.willProperties,
		ConnectPacketBuilder: func(connect *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			connect.Properties = p.connectProperties()
			return connect, nil
		},
		DisconnectPacketBuilder: func() *paho.Disconnect {
			if p.opts.disconnect != nil {
				return p.opts.disconnect
			}
			return &paho.Disconnect{}
		},
		ClientConfig: config,
	})
	if err != nil {
		return err
	}
	p.operations = manager
	p.shut = func(*paho.Disconnect) error {
		ctx, cancelWait := context.WithTimeout(context.Background(), deadline)
		defer cancelWait()
		return manager.Disconnect(ctx)
	}
	for end := time.Now().Add(deadline); ; time.Sleep(5 * time.Millisecond) {
		var up bool
		p.locked(func() { up, err = len(p.connacks) > 0, p.refused })
		switch {
		case up:
			return nil
		case err == nil && time.Now().After(end):
			err = errors.New("no connection within " + deadline.String())
		}
		if err != nil {
			cancel()
			<-manager.Done()
			return err
		}
	}
}

func (p *peer) connack() *paho.Connack { return p.connacks[0] }

func timed() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), deadline)
}

// subscribe sends one SUBSCRIBE and gives the codes of SUBACK.
func (p *peer) subscribe(subscriptions ...paho.SubscribeOptions) []byte {
	return p.subscribeWith(nil, subscriptions...)
}

func (p *peer) subscribeWith(identifier *int, subscriptions ...paho.SubscribeOptions) []byte {
	ctx, cancel := timed()
	defer cancel()
	packet := &paho.Subscribe{Subscriptions: subscriptions}
	if identifier != nil {
		packet.Properties = &paho.SubscribeProperties{SubscriptionIdentifier: identifier}
	}
	suback, err := p.Subscribe(ctx, packet)
	check("subscribe", err)
	return suback.Reasons
}

func at(filter string, qos byte) paho.SubscribeOptions {
	return paho.SubscribeOptions{Topic: filter, QoS: qos}
}

// publish waits until the exchange of the QoS is complete.
func (p *peer) publish(name, payload string, qos byte) {
	p.send(&paho.Publish{Topic: name, Payload: []byte(payload), QoS: qos})
}

func (p *peer) retain(name, payload string) {
	p.send(&paho.Publish{Topic: name, Payload: []byte(payload), QoS: 1, Retain: true})
}

func (p *peer) publishWith(name, payload string, properties paho.PublishProperties) {
	p.send(&paho.Publish{Topic: name, Payload: []byte(payload), QoS: 1, Properties: &properties})
}

func (p *peer) send(publish *paho.Publish) {
	ctx, cancel := timed()
	defer cancel()
	_, err := p.Publish(ctx, publish)
	check("publish", err)
}

func (p *peer) on(name string) (found []received) {
	p.locked(func() {
		for _, message := range p.messages {
			if message.Topic == name {
				found = append(found, message)
			}
		}
	})
	return found
}

// wait gives the messages of a topic, once there are so many; more than that is a failure.
func (p *peer) wait(name string, count int) []received {
	until(fmt.Sprintf("%d messages on %s", count, name), func() bool { return len(p.on(name)) >= count })
	equal("messages on "+name, len(p.on(name)), count)
	return p.on(name)
}

func (p *peer) one(name string) received { return p.wait(name, 1)[0] }

func (p *peer) isOver() (over bool) {
	p.locked(func() { over = p.over })
	return over
}

// cut ends the connection without DISCONNECT.
func (p *peer) cut() {
	p.TerminateConnectionForTest()
	until("the end of the connection", p.isOver)
	p.stopped = true
}

// stop sends DISCONNECT.
func (p *peer) stop() {
	p.stopped = true
	disconnect := p.opts.disconnect
	if disconnect == nil {
		disconnect = &paho.Disconnect{}
	}
	check("disconnect", p.shut(disconnect))
}

// closeAll ends what a scenario left open.
func closeAll() {
	for _, p := range open {
		if !p.stopped {
			_ = p.shut(&paho.Disconnect{})
		}
		if p.cancel != nil {
			p.cancel()
		}
	}
	open = nil
}
