package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// down ends the lab, in whatever state it is, and removes all that it made.
func down(state string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root (sudo)")
	}
	unnamed, _ := filepath.Glob(filepath.Join(filepath.Dir(state), unnamedPrefix(state)+"*"))
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) && len(unnamed) == 0 {
		return nil
	}
	r, err := readRecord(state)
	if err != nil && !errors.Is(err, errNoLab) {
		return err
	}
	if err == nil {
		if err := endProcesses(state, r); err != nil {
			return err
		}
		if err := releaseLoops(state, r); err != nil {
			return err
		}
	}
	if err := waitFor(20*time.Second, func() error { return removeCgroups(cgroupName(state)) }); err != nil {
		return fmt.Errorf("control groups stay: %w", err)
	}
	// Everything was mounted in the lab's own namespace. Were it not so, the removal below would
	// empty what is mounted there.
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), " "+state+"/") {
		return fmt.Errorf("something is mounted below %s on the host: unmount it, then lab down again", state)
	}
	var parents []string
	for _, dir := range append(unnamed, state) {
		made, _ := os.ReadFile(madeParents(dir))
		if err := waitFor(10*time.Second, func() error { return removeForGood(dir) }); err != nil {
			return err
		}
		parents = append(parents, strings.Split(string(made), "\n")...)
	}
	slices.Sort(parents)
	for _, dir := range slices.Backward(slices.Compact(parents)) {
		// One that others use by now is not empty and stays.
		if dir != "" {
			_ = os.Remove(dir)
		}
	}
	return nil
}

// removeForGood removes a directory, and looks a moment later whether it is still gone: a thread of the init, whose end is already seen,
// may finish making a directory.
func removeForGood(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s came back while it was removed", dir)
	}
	return nil
}

// endProcesses kills the init, and with it every process of the lab. Commands that `lab exec` runs
// are no children of it: they are known by being in its namespaces.
func endProcesses(state string, r record) error {
	visitors := append(recordedVisitors(state), marked(visitorMark(r))...)
	if r.alive() {
		visitors = append(visitors, inNamespacesOf(r.Init.PID)...)
		if err := r.Init.kill(); err != nil {
			return err
		}
	}
	if r.Boot != bootID() {
		return nil
	}
	for _, v := range visitors {
		if err := v.kill(); err != nil {
			return err
		}
	}
	return waitFor(30*time.Second, func() error {
		// What they started meanwhile is theirs too.
		for _, v := range marked(visitorMark(r)) {
			if err := v.kill(); err != nil {
				return err
			}
			visitors = append(visitors, v)
		}
		for _, v := range append(visitors, r.Init) {
			if v.alive() {
				return fmt.Errorf("process %d still runs", v.PID)
			}
		}
		return nil
	})
}

// marked lists the processes that have the mark in their environment: what `lab exec` started, and what that started.
func marked(mark string) []identity {
	var found []identity
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The identity first: were the process another one by the time of its kill, it would not be hit.
		id, err := identify(pid)
		if err != nil {
			continue
		}
		environ, _ := os.ReadFile(p + "/environ")
		if slices.Contains(strings.Split(string(environ), "\x00"), mark) {
			found = append(found, id)
		}
	}
	return found
}

// inNamespacesOf lists the processes that share both the network and the mount namespace.
func inNamespacesOf(pid int) []identity {
	net, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	mnt, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err1 != nil || err2 != nil {
		return nil
	}
	var found []identity
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		other, err := strconv.Atoi(filepath.Base(p))
		if err != nil || other == pid || other == os.Getpid() {
			continue
		}
		if n, _ := os.Readlink(p + "/ns/net"); n != net {
			continue
		}
		if m, _ := os.Readlink(p + "/ns/mnt"); m != mnt {
			continue
		}
		if id, err := identify(other); err == nil {
			found = append(found, id)
		}
	}
	return found
}

// recordedVisitors are the commands of `lab exec` that wrote themselves down: the way to find them
// when the init is gone.
func recordedVisitors(state string) []identity {
	var found []identity
	files, _ := filepath.Glob(filepath.Join(state, "exec", "*"))
	for _, f := range files {
		pid, start, _ := strings.Cut(filepath.Base(f), "-")
		p, err1 := strconv.Atoi(pid)
		s, err2 := strconv.ParseUint(start, 10, 64)
		if err1 == nil && err2 == nil {
			found = append(found, identity{p, s})
		}
	}
	return found
}

// releaseLoops waits until the kernel has let go of the volumes' images, which it does some time
// after the last process of a mount namespace, and removes the loop devices that came with the lab.
func releaseLoops(state string, r record) error {
	backed := func() error {
		for _, loop := range loopDevices() {
			file, err := os.ReadFile(filepath.Join("/sys/block", loop, "loop/backing_file"))
			if err == nil && strings.HasPrefix(string(file), state+"/") {
				return fmt.Errorf("%s still holds %s", loop, strings.TrimSpace(string(file)))
			}
		}
		return nil
	}
	if err := waitFor(30*time.Second, backed); err != nil {
		return err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	defer control.Close()
	for _, loop := range loopDevices() {
		if slices.Contains(r.Loops, loop) {
			continue
		}
		number, err := strconv.Atoi(strings.TrimPrefix(loop, "loop"))
		if err != nil {
			continue
		}
		const loopCtlRemove = 0x4C81
		// One that another program uses by now is busy and stays.
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, control.Fd(), loopCtlRemove, uintptr(number))
	}
	return nil
}
