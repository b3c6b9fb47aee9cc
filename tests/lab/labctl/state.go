package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stateDir is where a lab keeps all its files. A machine can hold a second lab with another one.
func stateDir() (string, error) {
	dir := os.Getenv("RAFTMQ_LAB_STATE")
	if dir == "" {
		base := os.Getenv("XDG_STATE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", err
			}
			base = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(base, "raftmq-lab")
	}
	dir, err := realPath(dir)
	if err != nil {
		return "", err
	}
	// Nodes have their own of these, so that the state would be out of their sight.
	for _, hidden := range nodeTmpfs {
		if strings.HasPrefix(dir+"/", hidden+"/") {
			return "", fmt.Errorf("RAFTMQ_LAB_STATE: %s may not be below %s", dir, hidden)
		}
	}
	if len(dir) > 60 {
		return "", fmt.Errorf("RAFTMQ_LAB_STATE: %s is too long for the sockets below it (at most 60 bytes)", dir)
	}
	return dir, nil
}

// realPath is the path as the kernel names it, in lists of mounts and loop devices. What is not there yet has no links.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) && path != "/" {
		parent, err := realPath(filepath.Dir(path))
		return filepath.Join(parent, filepath.Base(path)), err
	}
	return real, err
}

func socketPath(state string) string     { return filepath.Join(state, "control.sock") }
func kubeconfigPath(state string) string { return filepath.Join(state, "admin.kubeconfig") }

// identity names a process for good: a process id alone may belong to another by now.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat, ticks after boot
}

// record is what `up` leaves behind before the lab does anything.
type record struct {
	Init identity `json:"init"`
	Boot string   `json:"boot"` // the machine's boot, for which the identity holds
	Bin  string   `json:"bin"`  // where the binaries are
	// The loop devices that were there before: those that came with the lab go with it.
	Loops []string `json:"loops"`
}

// madeParents is where `up` writes down the directories above the state that it made, the highest first: they go with
// the lab if nothing else is in them by then.
func madeParents(state string) string { return filepath.Join(state, "parents") }

// unnamedPrefix is how the directories begin, beside the state, that `up` has not named yet; `down` removes those of an
// `up` that was killed.
func unnamedPrefix(state string) string { return "." + filepath.Base(state) + ".new-" }

// missingParents are the directories above `path` that are not there, the highest first.
func missingParents(path string) []string {
	var missing []string
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil {
			break
		}
		missing = append([]string{dir}, missing...)
	}
	return missing
}

var errNoLab = errors.New("no lab is up: lab up")

func readRecord(state string) (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(state, "init.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return r, errNoLab
	}
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

func (r record) write(state string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(state, "init.json"), data, 0o600)
}

func writeFileAtomic(path string, data []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// alive tells whether the recorded init still runs.
func (r record) alive() bool { return r.Boot == bootID() && r.Init.alive() }

func identify(pid int) (identity, error) {
	start, _, err := procStat(pid)
	return identity{pid, start}, err
}

// alive is false for a zombie too: its namespaces are gone already.
func (i identity) alive() bool {
	start, state, err := procStat(i.PID)
	return err == nil && start == i.Start && state != 'Z' && state != 'X'
}

// kill ends the process if it is still the one that was meant. The handle is taken before the
// check, so that it cannot come to mean another process in between.
func (i identity) kill() error {
	p, err := os.FindProcess(i.PID)
	if err != nil || !i.alive() {
		return nil
	}
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func procStat(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name in parentheses may hold anything, also parentheses.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

func loopDevices() []string {
	loops, _ := filepath.Glob("/sys/block/loop*")
	for i := range loops {
		loops[i] = filepath.Base(loops[i])
	}
	return loops
}
