package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// The range for benchmarks (RFC 2544) is used by nobody else, so that the lab's routes hide nothing.
const (
	controlIP    = "198.18.0.1" // API server, DNS, and whatever `lab exec` starts
	podRange     = "198.18.128.0/17"
	serviceRange = "198.19.0.0/16"
	apiServiceIP = "198.19.0.1"
	dnsServiceIP = "198.19.0.10"
	bridge       = "lab0"
	maxNodes     = 50
)

func nodeName(n int) string { return "node-" + strconv.Itoa(n) }
func nodeIP(n int) string   { return fmt.Sprintf("198.18.0.%d", 10+n) }
func nodePods(n int) string { return fmt.Sprintf("198.18.%d.0/24", 128+n) }
func nodeLink(n int) string { return "to-" + nodeName(n) }
func forwarding() error     { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }
func ip(args ...string) error {
	return command(context.Background(), append([]string{"ip"}, args...)...)
}

// controlNetwork makes the network of the control plane: a bridge, on which the nodes are put.
func controlNetwork() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridge, "type", "bridge"},
		{"address", "add", controlIP + "/24", "dev", bridge},
		{"link", "set", bridge, "up"},
		// No packet goes there: the proxy changes the address before. But without a route none starts.
		{"route", "add", serviceRange, "dev", bridge},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return forwarding()
}

// plugNode gives the node its link, its address and its routes.
func plugNode(l *lab, node *node) error {
	if !node.running() {
		return errors.New("the node's init ended")
	}
	n, id := node.number, strconv.Itoa(node.cmd.Process.Pid)
	_ = ip("link", "delete", nodeLink(n))
	for _, args := range [][]string{
		{"link", "add", nodeLink(n), "type", "veth", "peer", "name", "eth0", "netns", id},
		{"link", "set", nodeLink(n), "master", bridge, "up"},
		{"route", "replace", nodePods(n), "via", nodeIP(n)},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	inside := func(args ...string) error {
		return command(context.Background(), append([]string{"nsenter", "--net=" + filepath.Join(l.proc(), id, "ns/net"), "ip"}, args...)...)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", nodeIP(n) + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", controlIP},
	} {
		if err := inside(args...); err != nil {
			return err
		}
	}
	return nil
}

// setLink connects or cuts a node. It is cut on the control plane's side: the node sees its cable pulled.
func setLink(n int, state string) error { return ip("link", "set", nodeLink(n), state) }
