package main

import (
	"io"
	"net"
)

// relay is a TCP connection through this process, which can be cut: the client has no way to leave without DISCONNECT.
type relay struct {
	listener net.Listener
	conns    chan net.Conn
}

func newRelay(target string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, conns: make(chan net.Conn, 2)}
	go func() {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			return
		}
		r.conns <- client
		r.conns <- broker
		go pump(client, broker)
		pump(broker, client)
	}()
	return r, nil
}

func pump(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
}

func (r *relay) port() string {
	_, port, _ := net.SplitHostPort(r.listener.Addr().String())
	return port
}

func (r *relay) cut() {
	_ = r.listener.Close()
	for range 2 {
		_ = (<-r.conns).Close()
	}
}
