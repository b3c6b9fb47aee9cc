package main

import (
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// node is a machine of the cluster: a process, mount and network namespace, held by its init.
type node struct {
	number int
	name   string
	dir    string // its disk

	mu  sync.Mutex
	cmd *exec.Cmd     // nil while its power is off
	off chan struct{} // closed when the init has ended
	cut bool
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

func (n *node) describe() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.cmd == nil:
		return "off"
	case n.cut:
		return "partitioned"
	}
	return "on"
}

// inside is a command line that runs in the node.
func (n *node) inside(args ...string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	ns := filepath.Join(filepath.Dir(filepath.Dir(n.dir)), "proc", strconv.Itoa(n.cmd.Process.Pid), "ns")
	return append([]string{"nsenter", "--net=" + ns + "/net", "--mount=" + ns + "/mnt", "--pid=" + ns + "/pid", "--"}, args...)
}

// kill ends all that runs in the node at once, and waits until it is gone.
func (n *node) kill() error {
	n.mu.Lock()
	cmd, off := n.cmd, n.off
	n.mu.Unlock()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-off:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s does not end", n.name)
	}
}

// prepareNode writes what the node finds on its disk when it starts.
func (l *lab) prepareNode(n *node) error {
	for _, dir := range []string{"log", "var-log", "containerd", "kubelet", "volumes", "cni", "tmp"} {
		if err := os.MkdirAll(filepath.Join(n.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := makeCgroup(l.proc(), filepath.Join(cgroupName(l.state), n.name)); err != nil {
		return err
	}
	l.mu.Lock()
	err := l.ca.kubeconfig(filepath.Join(n.dir, "kubeconfig"), n.name, "system:node:"+n.name, "system:nodes")
	l.mu.Unlock()
	if err != nil {
		return err
	}
	cert, key, err := l.ca.issue(n.name+"-server", pkix.Name{CommonName: "system:node:" + n.name, Organization: []string{"system:nodes"}}, n.name, nodeIP(n.number))
	if err != nil {
		return err
	}
	resolv := filepath.Join(n.dir, "resolv.conf")
	for path, text := range map[string]string{
		resolv:                                   "nameserver " + controlIP + "\n",
		filepath.Join(n.dir, "containerd.toml"):  containerdConfig(n),
		filepath.Join(n.dir, "kubelet.yaml"):     kubeletConfig(l, n, cert, key, resolv),
		filepath.Join(n.dir, "cni/lab.conflist"): cniConfig(n),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// powerOn starts the node's init, plugs it in, and lets it go on.
func (l *lab) powerOn(n *node) error {
	out, err := os.OpenFile(filepath.Join(n.dir, "log", "node.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	wait, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer release.Close()
	cmd := exec.Command(l.tool("labctl"), "node-init", l.state, l.bin, strconv.Itoa(n.number))
	cmd.Args[0] = "raftmq-lab-" + n.name
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(n.dir, "tmp"))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{wait}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: newNamespaces}
	if err := startChild(cmd); err != nil {
		return err
	}
	wait.Close()
	off := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.off, n.cut = cmd, off, false
	n.mu.Unlock()
	go func() {
		_ = waitChild(cmd)
		n.mu.Lock()
		n.cmd = nil
		n.mu.Unlock()
		close(off)
	}()
	// The link of a node whose power went off goes some time after its namespace.
	if err := waitFor(20*time.Second, func() error { return plugNode(l, n) }); err != nil {
		return err
	}
	_, err = release.Write([]byte{1})
	return err
}

// awaitReady waits until the API says, newer than `began`, that the node is Ready.
func (l *lab) awaitReady(n *node, began time.Time) error {
	ended := false
	err := waitFor(180*time.Second, func() error {
		if !n.running() {
			// That does not get better by waiting.
			ended = true
			return nil
		}
		var text string
		if err := l.kubectl(&text, "get", "node", n.name, "-o", "json"); err != nil {
			return err
		}
		var object struct {
			Status struct {
				Conditions []struct {
					Type, Status, Message string
					LastHeartbeatTime     time.Time
				}
			}
		}
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			return err
		}
		for _, c := range object.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" && c.LastHeartbeatTime.After(began.Truncate(time.Second)) {
				return nil
			} else if c.Type == "Ready" {
				return fmt.Errorf("Ready is %s: %s", c.Status, c.Message)
			}
		}
		return errors.New("no condition Ready yet")
	})
	if ended {
		err = errors.New("its first process ended")
	}
	if err == nil {
		return nil
	}
	report := []string{n.name + ": " + err.Error()}
	for _, part := range []string{"node", "containerd", "kubelet", "kube-proxy", "volumes"} {
		file := filepath.Join(n.dir, "log", part+".log")
		report = append(report, "--- end of "+file, tail(file))
	}
	return errors.New(strings.Join(report, "\n"))
}

// importImages gives the node all images that the lab has.
func importImages(ctx context.Context, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := command(ctx, "ctr", "-n", "k8s.io", "images", "import", f); err != nil {
			return err
		}
	}
	return nil
}
