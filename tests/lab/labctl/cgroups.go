package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cgroupName is the group, in every hierarchy, that holds all groups of the lab with that state.
func cgroupName(state string) string {
	return fmt.Sprintf("raftmq-lab-%x", sha256.Sum256([]byte(state)))[:19]
}

// cgroupRoots are the mounted hierarchies: several with version 1, one with version 2. `proc` is where the
// caller finds itself: the lab's init has a /proc of another process namespace.
func cgroupRoots(proc string) []string {
	mounts, err := os.ReadFile(filepath.Join(proc, "self/mounts"))
	if err != nil {
		return nil
	}
	var roots []string
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && (fields[2] == "cgroup" || fields[2] == "cgroup2") {
			roots = append(roots, fields[1])
		}
	}
	return roots
}

// makeCgroup makes the group in every hierarchy.
func makeCgroup(proc, name string) error {
	for _, root := range cgroupRoots(proc) {
		dir := root
		for part := range strings.SplitSeq(name, "/") {
			dir = filepath.Join(dir, part)
			if err := delegate(filepath.Dir(dir)); err != nil {
				return err
			}
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			// cpuset of version 1 does not inherit: without these no process can enter.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
				if err == nil && strings.HasSuffix(root, "cpuset") {
					if err := os.WriteFile(filepath.Join(dir, file), above, 0o644); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// delegate gives the groups below `dir` all the controllers that it has itself. Version 1 has nothing of the kind: there
// every hierarchy has its controllers everywhere.
func delegate(dir string) error {
	has, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil
	}
	gives, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(has)) {
		if slices.Contains(strings.Fields(string(gives)), name) {
			continue
		}
		// One by one: a controller that the kernel does not hand on (some need a group without processes) is no reason to
		// do without the others. The kubelet names those that it misses.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
	return nil
}

func removeCgroups(name string) error {
	for _, root := range cgroupRoots("/proc") {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
