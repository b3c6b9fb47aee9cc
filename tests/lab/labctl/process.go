package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// part is a program that runs as long as the lab, or as its node, and is started again when it ends.
type part struct {
	name string
	log  string // path
	args []string
	env  []string

	mu    sync.Mutex
	ended int // how often
}

// start runs the part from now on. Its log holds all its runs.
func start(logDir, name string, env []string, args ...string) *part {
	p := &part{name: name, log: filepath.Join(logDir, name+".log"), args: args, env: env}
	go func() {
		for {
			err := p.run()
			p.mu.Lock()
			p.ended++
			p.mu.Unlock()
			log.Printf("%s ended (%v), starting it again", name, err)
			time.Sleep(time.Second)
		}
	}()
	return p
}

func (p *part) run() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = out, out
	return runChild(cmd)
}

// await waits until the part answers. A part that ends meanwhile is given up at once.
func (p *part) await(limit time.Duration, ready func() error) error {
	err := waitFor(limit, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.ended > 2 {
			return nil
		}
		return ready()
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended > 2 {
		err = errors.New("does not stay up")
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n--- end of %s\n%s", p.name, err, p.log, tail(p.log))
	}
	return nil
}

func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 4000 {
		_, _ = f.Seek(-4000, io.SeekEnd)
	}
	data, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > 25 {
		lines = lines[len(lines)-25:]
	}
	return strings.Join(lines, "\n")
}

// command runs a short command to its end and gives what it said when it failed.
func command(ctx context.Context, args ...string) error {
	_, err := output(ctx, nil, args...)
	return err
}

func output(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	if err := runChild(cmd); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// The first process of a process namespace inherits the orphans and has to reap them, but not the
// children that os/exec waits for. A child is known from before it can end: `children` is held
// while it starts.
var children = struct {
	sync.RWMutex
	own map[int]bool
}{own: map[int]bool{}}

func startChild(cmd *exec.Cmd) error {
	children.Lock()
	defer children.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	children.own[cmd.Process.Pid] = true
	return nil
}

func waitChild(cmd *exec.Cmd) error {
	err := cmd.Wait()
	children.Lock()
	delete(children.own, cmd.Process.Pid)
	children.Unlock()
	return err
}

func runChild(cmd *exec.Cmd) error {
	if err := startChild(cmd); err != nil {
		return err
	}
	return waitChild(cmd)
}

func reapOrphans() {
	const pAll, wNowait = 0, 0x1000000
	for {
		var info [128]byte // siginfo_t; si_pid stands at byte 16
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pAll, 0, uintptr(unsafe.Pointer(&info)), syscall.WEXITED|wNowait, 0, 0)
		if errno == syscall.ECHILD {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		pid := int(*(*int32)(unsafe.Pointer(&info[16])))
		children.RLock()
		own := children.own[pid]
		if !own && errno == 0 {
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
		children.RUnlock()
		if own || errno != 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
}
