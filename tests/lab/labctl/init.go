package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// lab is what the init knows. Its methods run in the lab's own namespaces.
type lab struct {
	state string
	bin   string
	ca    *authority

	mu    sync.Mutex
	nodes map[string]*node

	// Changes of the set of nodes, and of what they have loaded, happen one at a time.
	changes sync.Mutex

	boot progress
}

type step struct {
	name string
	do   func() error
}

// labInit is the lab's first process.
func labInit(args []string) error {
	awaitRelease()
	if len(args) != 3 {
		return errors.New("lab-init STATE BIN NODES")
	}
	nodes, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	go reapOrphans()
	l := &lab{state: args[0], bin: args[1], nodes: map[string]*node{}}
	l.boot.changed = sync.NewCond(&l.boot.mu)
	if err := l.prepare(); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socketPath(l.state))
	if err != nil {
		return err
	}
	go l.bootNow(nodes)
	return http.Serve(listener, l.handler())
}

// prepare makes the directories and the lab's own view of the machine's files.
func (l *lab) prepare() error {
	if err := syscall.Sethostname([]byte("raftmq-lab")); err != nil {
		return err
	}
	for _, dir := range []string{"pki", "nodes", "images", "exec", "manifests", "tmp", "proc"} {
		if err := os.MkdirAll(filepath.Join(l.state, dir), 0o700); err != nil {
			return err
		}
	}
	if err := os.Setenv("TMPDIR", filepath.Join(l.state, "tmp")); err != nil {
		return err
	}
	// kubectl's; else it would be in the home of who started the lab.
	if err := os.Setenv("KUBECACHEDIR", filepath.Join(l.state, "tmp", "cache", "kube")); err != nil {
		return err
	}
	// No pod without it: it is the first image of every node.
	if err := copyFile(l.tool("pause.tar"), filepath.Join(l.state, "images", "pause.tar")); err != nil {
		return err
	}
	if err := fs.WalkDir(manifests, "manifests", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := manifests.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(l.state, path), data, 0o600)
	}); err != nil {
		return err
	}
	// Not at /proc: commands of `lab exec` come from outside of the process namespace, and would not
	// find themselves there.
	if err := ownMounts(l.proc()); err != nil {
		return err
	}
	// What `lab exec` starts asks the cluster's DNS.
	resolv := filepath.Join(l.state, "resolv.conf")
	text := "nameserver " + controlIP + "\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
	if err := os.WriteFile(resolv, []byte(text), 0o644); err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil {
		if err := syscall.Mount(resolv, target, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	return makeCgroup(l.proc(), cgroupName(l.state))
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// ownMounts keeps every mount made from now on inside, while the machine's own still come in (and
// can be unmounted there), and shows the processes of this process namespace at `proc`.
func ownMounts(proc string) error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"none", "/", "", syscall.MS_SLAVE | syscall.MS_REC},
		{"none", "/", "", syscall.MS_SHARED | syscall.MS_REC},
		{"proc", proc, "proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

func (l *lab) bootNow(nodes int) {
	for _, s := range l.bootSteps(nodes) {
		began := time.Now()
		if err := s.do(); err != nil {
			log.Printf("%s: %v", s.name, err)
			l.boot.end(fmt.Errorf("%s: not ready after %.1f s: %w", s.name, time.Since(began).Seconds(), err))
			return
		}
		l.boot.say(fmt.Sprintf("%-32s %6.1f s", s.name, time.Since(began).Seconds()))
	}
	l.boot.end(nil)
}

func (l *lab) proc() string                  { return filepath.Join(l.state, "proc") }
func (l *lab) pki() string                   { return filepath.Join(l.state, "pki") }
func (l *lab) tool(name string) string       { return filepath.Join(l.bin, name) }
func (l *lab) kubeconfig(name string) string { return kubeconfigOf(l.state, name) }
func kubeconfigOf(state, name string) string { return filepath.Join(state, name+".kubeconfig") }
func (l *lab) start(name string, env []string, args ...string) *part {
	return start(filepath.Join(l.state, "log"), name, env, args...)
}

// progress is what the boot has said so far, for any number of listeners.
type progress struct {
	mu      sync.Mutex
	changed *sync.Cond
	lines   []string
	done    bool
	err     error
}

func (p *progress) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	log.Print(line)
	p.lines = append(p.lines, line)
	p.changed.Broadcast()
}

func (p *progress) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.err = true, err
	p.changed.Broadcast()
}

// follow passes on all lines until the end, and the error of the end.
func (p *progress) follow(line func(string)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; ; {
		for ; i < len(p.lines); i++ {
			line(p.lines[i])
		}
		if p.done {
			return p.err
		}
		p.changed.Wait()
	}
}
