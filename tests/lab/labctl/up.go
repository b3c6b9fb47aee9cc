package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// up starts the lab's init, and follows its boot.
func up(state string, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	nodes := flags.Int("nodes", 3, "how many nodes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *nodes < 1 || *nodes > maxNodes {
		return fmt.Errorf("--nodes: 1 to %d", maxNodes)
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes namespaces and mounts (sudo)")
	}
	bin := os.Getenv("RAFTMQ_LAB_BIN")
	if bin == "" {
		return errors.New("RAFTMQ_LAB_BIN is not set: call tests/lab/lab, which builds the binaries first")
	}
	parents := missingParents(state)
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		return err
	}
	// The directory comes with the list in it, at once: there is no moment at which an end of `up` leaves directories
	// that `down` does not know. Naming it is also the lock: of two at a time one succeeds, since a list is in the other.
	unnamed, err := os.MkdirTemp(filepath.Dir(state), unnamedPrefix(state))
	if err != nil {
		return err
	}
	if err := os.WriteFile(madeParents(unnamed), []byte(strings.Join(parents, "\n")), 0o600); err != nil {
		return err
	}
	if err := os.Rename(unnamed, state); errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		_ = os.RemoveAll(unnamed)
		if r, err := readRecord(state); err == nil && r.alive() {
			return fmt.Errorf("a lab is up already (%s): lab status, lab down", state)
		}
		return fmt.Errorf("%s is left from a lab that ended without `down`: lab down", state)
	} else if err != nil {
		return err
	}
	began := time.Now()
	if err := startInit(state, bin, *nodes); err != nil {
		return err
	}
	if err := waitFor(20*time.Second, func() error { _, err := os.Stat(socketPath(state)); return err }); err != nil {
		return fmt.Errorf("the lab's first process does not answer: %w\n%s", err, tail(filepath.Join(state, "log", "lab.log")))
	}
	if err := ask(state, "boot", nil); err != nil {
		return err
	}
	fmt.Printf("ready after %.1f s\n", time.Since(began).Seconds())
	return nil
}

// startInit starts the init and records which process it is. It goes on only when it is told that
// the record is written: there is no moment at which an end of `up` leaves an unrecorded process.
func startInit(state, bin string, nodes int) error {
	if err := os.Mkdir(filepath.Join(state, "log"), 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(state, "log", "lab.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	wait, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer release.Close()
	cmd := exec.Command("/proc/self/exe", "lab-init", state, bin, strconv.Itoa(nodes))
	cmd.Args[0] = "raftmq-lab"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{wait}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: newNamespaces}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	wait.Close()
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		return err
	}
	r := record{Init: id, Boot: bootID(), Bin: bin, Loops: loopDevices()}
	if err := r.write(state); err != nil {
		return err
	}
	_, err = release.Write([]byte{1})
	return err
}

const newNamespaces = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

// awaitRelease is the other side: what was started waits here until its starter has seen to it. An
// end of the starter ends it too.
func awaitRelease() {
	if n, _ := os.NewFile(3, "release").Read(make([]byte, 1)); n != 1 {
		os.Exit(1)
	}
}

func waitFor(limit time.Duration, condition func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
