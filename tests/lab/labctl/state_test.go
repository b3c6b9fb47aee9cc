package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestAProcessIsKnownByItsStart(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := identify(cmd.Process.Pid)
	if err != nil || !id.alive() {
		t.Fatalf("%+v: %v", id, err)
	}
	other := identity{id.PID, id.Start + 1}
	if other.alive() {
		t.Error("a process with another start is taken for this one")
	}
	if err := other.kill(); err != nil || !id.alive() {
		t.Errorf("another process was killed: %v", err)
	}
	if err := id.kill(); err != nil {
		t.Fatal(err)
	}
	// Nobody has waited for it: a zombie is no live process.
	if err := waitFor(5*time.Second, func() error {
		if id.alive() {
			return os.ErrExist
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestStateDirIsWhereNodesSeeIt(t *testing.T) {
	for dir, good := range map[string]bool{
		"/srv/lab": true, "/var/tmp/lab": true, "/var/library/lab": true,
		"/var/lib/lab": false, "/run/lab": false, "/" + strings.Repeat("x", 70): false,
	} {
		t.Setenv("RAFTMQ_LAB_STATE", dir)
		if _, err := stateDir(); (err == nil) != good {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
