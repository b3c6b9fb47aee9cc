package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// handler answers the commands of `lab` that change or show the lab. An answer is text, line by
// line; an error comes in the trailer, when the work has begun already.
func (l *lab) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(command string, change bool, do func(argument string, say func(string)) error) {
		mux.HandleFunc("POST /"+command, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "Lab-Error")
			flusher := http.NewResponseController(w)
			say := func(line string) { fmt.Fprintln(w, line); _ = flusher.Flush() }
			if change {
				if err := l.booted(); err != nil {
					w.Header().Set("Lab-Error", header(err))
					return
				}
				l.changes.Lock()
				defer l.changes.Unlock()
			}
			if err := do(r.URL.Query().Get("argument"), say); err != nil {
				w.Header().Set("Lab-Error", header(err))
			}
		})
	}
	handle("boot", false, func(_ string, say func(string)) error { return l.boot.follow(say) })
	handle("status", false, l.status)
	handle("load-image", true, l.loadImage)
	handle("partition", true, func(name string, _ func(string)) error { return l.connect(name, false) })
	handle("heal", true, func(name string, _ func(string)) error { return l.connect(name, true) })
	handle("kill-node", true, func(name string, _ func(string)) error { return l.killNode(name) })
	handle("start-node", true, func(name string, _ func(string)) error { return l.startAgain(name) })
	handle("add-node", true, func(_ string, say func(string)) error {
		name, err := l.addNode()
		if err == nil {
			say(name)
		}
		return err
	})
	return mux
}

// A header holds one line; the client puts the lines back.
func header(err error) string { return strings.ReplaceAll(err.Error(), "\n", "\\n") }

func (l *lab) booted() error {
	l.boot.mu.Lock()
	defer l.boot.mu.Unlock()
	if !l.boot.done {
		return errors.New("the lab is still starting")
	}
	if l.boot.err != nil {
		return fmt.Errorf("the lab did not start: %w", l.boot.err)
	}
	return nil
}

func (l *lab) status(_ string, say func(string)) error {
	say("state       " + l.state)
	say("kubeconfig  " + kubeconfigPath(l.state) + "  (inside the lab's network: lab exec)")
	say("API server  https://" + controlIP + ":6443, DNS " + controlIP)
	if err := l.booted(); err != nil {
		say(err.Error())
		return nil
	}
	for _, n := range l.sorted() {
		say(fmt.Sprintf("%-10s  %-12s pods %-16s %s", n.name, nodeIP(n.number), nodePods(n.number), n.describe()))
	}
	var text string
	if err := l.kubectl(&text, "get", "nodes", "-o", "wide"); err != nil {
		return err
	}
	say(strings.TrimSpace(text))
	return nil
}

func (l *lab) sorted() []*node {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*node
	for _, n := range l.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return a.number - b.number })
	return all
}

func (l *lab) find(name string) (*node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("no node %q", name)
}

func (l *lab) connect(name string, connected bool) error {
	n, err := l.find(name)
	if err != nil {
		return err
	}
	if !n.running() {
		return fmt.Errorf("%s is off: lab start-node %s", name, name)
	}
	state := map[bool]string{true: "up", false: "down"}[connected]
	if err := setLink(n.number, state); err != nil {
		return err
	}
	n.mu.Lock()
	n.cut = !connected
	n.mu.Unlock()
	return nil
}

func (l *lab) killNode(name string) error {
	n, err := l.find(name)
	if err != nil {
		return err
	}
	if !n.running() {
		return fmt.Errorf("%s is off already", name)
	}
	return n.kill()
}

func (l *lab) startAgain(name string) error {
	n, err := l.find(name)
	if err != nil {
		return err
	}
	if n.running() {
		return fmt.Errorf("%s runs", name)
	}
	began := time.Now().Add(-time.Second)
	if err := l.powerOn(n); err != nil {
		return err
	}
	return l.awaitReady(n, began)
}

func (l *lab) addNode() (string, error) {
	number := 1
	for _, n := range l.sorted() {
		number = n.number + 1
	}
	if number > maxNodes {
		return "", fmt.Errorf("at most %d nodes", maxNodes)
	}
	return nodeName(number), l.newNode(number)
}

func (l *lab) newNode(number int) error {
	n := &node{number: number, name: nodeName(number), dir: filepath.Join(l.state, "nodes", nodeName(number))}
	began := time.Now().Add(-time.Second)
	if err := l.prepareNode(n); err != nil {
		return err
	}
	if err := l.powerOn(n); err != nil {
		return err
	}
	l.mu.Lock()
	l.nodes[n.name] = n
	l.mu.Unlock()
	return l.awaitReady(n, began)
}

func (l *lab) startNodes(count int) error {
	results := make(chan error)
	for i := range count {
		go func() { results <- l.newNode(i + 1) }()
	}
	var errs []error
	for range count {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// loadImage gives an archive, which lies in the lab's directory already, to every running node.
// Nodes that start later take all that lie there; what no node takes is not kept, since no later node would start with it.
func (l *lab) loadImage(file string, say func(string)) error {
	var errs []error
	taken := false
	for _, n := range l.sorted() {
		if !n.running() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		text, err := output(ctx, nil, n.inside("ctr", "-n", "k8s.io", "images", "import", file)...)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.name, err))
			continue
		}
		taken = true
		for line := range strings.Lines(text) {
			say(n.name + ": " + strings.TrimSpace(line))
		}
	}
	if len(errs) > 0 && !taken {
		errs = append(errs, os.Remove(file))
	}
	return errors.Join(errs...)
}
