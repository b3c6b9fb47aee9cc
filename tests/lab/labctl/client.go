package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ask sends a command to the lab's init and prints what it says.
func ask(state, command string, args []string) error {
	argument := ""
	switch wanted := takesArgument(command); {
	case len(args) != wanted:
		return fmt.Errorf("%s takes %d arguments: lab help", command, wanted)
	case wanted == 1:
		argument = args[0]
	}
	r, err := readRecord(state)
	if err != nil {
		return err
	}
	if !r.alive() {
		return errors.New("the lab's first process is gone: lab down")
	}
	if command == "load-image" {
		if argument, err = keepImage(state, argument); err != nil {
			return err
		}
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socketPath(state))
	}}}
	response, err := client.Post("http://lab/"+command+"?argument="+url.QueryEscape(argument), "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the lab ended meanwhile: %w", err)
	}
	message := response.Trailer.Get("Lab-Error")
	if message == "" {
		message = response.Header.Get("Lab-Error")
	}
	if message != "" {
		return errors.New(strings.ReplaceAll(message, "\\n", "\n"))
	}
	return nil
}

func takesArgument(command string) int {
	switch command {
	case "load-image", "partition", "heal", "kill-node", "start-node":
		return 1
	}
	return 0
}

// keepImage copies the archive into the lab's directory, from where each node, also a later one, takes it.
func keepImage(state, file string) (string, error) {
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Join(state, "tmp"), "image")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, hash), in); err != nil {
		return "", err
	}
	if err := checkArchive(out.Name()); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	kept := filepath.Join(state, "images", fmt.Sprintf("%x.tar", hash.Sum(nil)[:8]))
	return kept, os.Rename(out.Name(), kept)
}

func execTool(state, tool string, args []string) error {
	r, err := readRecord(state)
	if err != nil {
		return err
	}
	return execInside(state, append([]string{filepath.Join(r.Bin, tool)}, args...))
}

// insideEnv is what a command inside gets besides the caller's environment: where the lab is, and that nothing it
// keeps about a cluster is kept in the user's home, where it would outlive the lab.
func insideEnv(state string, r record) [][2]string {
	cache := filepath.Join(state, "tmp", "cache")
	return append(labEnv(state, r), [][2]string{
		{"KUBECACHEDIR", filepath.Join(cache, "kube")},
		{"HELM_CACHE_HOME", filepath.Join(cache, "helm")},
	}...)
}

// visitorMark is in the environment of every command inside, by which `down` finds also their children.
func visitorMark(r record) string {
	return fmt.Sprintf("RAFTMQ_LAB_INSIDE=%s-%d-%d", r.Boot, r.Init.PID, r.Init.Start)
}

// execInside turns this process into the command, inside the lab's network and mounts. The
// machine's files, processes and users stay those of the machine.
func execInside(state string, args []string) error {
	if len(args) == 0 {
		return errors.New("exec CMD…")
	}
	r, err := readRecord(state)
	if err != nil {
		return err
	}
	if !r.alive() {
		return errors.New("the lab's first process is gone: lab down")
	}
	if err := recordVisitor(state); err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, v := range insideEnv(state, r) {
		if err := os.Setenv(v[0], v[1]); err != nil {
			return err
		}
	}
	name, value, _ := strings.Cut(visitorMark(r), "=")
	if err := os.Setenv(name, value); err != nil {
		return err
	}
	full := append([]string{"nsenter", "-t", strconv.Itoa(r.Init.PID), "--net", "--mount", "--", "env", "--chdir=" + dir}, args...)
	return syscall.Exec(nsenter, full, os.Environ())
}

// execOnNode runs a command as a process of the node: for what breaks a node from inside, such as
// packets lost by rules of its own.
func execOnNode(state string, args []string) error {
	if len(args) < 2 {
		return errors.New("on NODE CMD…")
	}
	r, err := readRecord(state)
	if err != nil {
		return err
	}
	if !r.alive() {
		return errors.New("the lab's first process is gone: lab down")
	}
	// Each thread of the init has its own list.
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.Init.PID))
	for _, list := range lists {
		pids, _ := os.ReadFile(list)
		for pid := range strings.FieldsSeq(string(pids)) {
			name, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if strings.HasPrefix(string(name), "raftmq-lab-"+args[0]+"\x00") {
				nsenter, err := exec.LookPath("nsenter")
				if err != nil {
					return err
				}
				full := append([]string{"nsenter", "-t", pid, "--net", "--mount", "--pid", "--"}, args[1:]...)
				return syscall.Exec(nsenter, full, os.Environ())
			}
		}
	}
	return fmt.Errorf("no node %q that is on", args[0])
}

// recordVisitor writes down this process, which keeps its id over exec, so that `down` ends it even
// when the init, by whose namespaces it is found else, is gone.
func recordVisitor(state string) error {
	for _, old := range recordedVisitors(state) {
		if !old.alive() {
			_ = os.Remove(visitorFile(state, old))
		}
	}
	id, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	return os.WriteFile(visitorFile(state, id), nil, 0o600)
}

func visitorFile(state string, id identity) string {
	return filepath.Join(state, "exec", fmt.Sprintf("%d-%d", id.PID, id.Start))
}

func printEnv(state string) error {
	r, err := readRecord(state)
	if err != nil {
		return err
	}
	for _, v := range labEnv(state, r) {
		fmt.Printf("export %s='%s'\n", v[0], v[1])
	}
	return nil
}

func labEnv(state string, r record) [][2]string {
	return [][2]string{
		{"KUBECONFIG", kubeconfigPath(state)},
		{"RAFTMQ_LAB_STATE", state},
		{"RAFTMQ_LAB_BIN", r.Bin},
		{"RAFTMQ_LAB_PID", strconv.Itoa(r.Init.PID)},
		{"RAFTMQ_LAB_API", "https://" + controlIP + ":6443"},
		{"RAFTMQ_LAB_DNS", controlIP},
		{"RAFTMQ_LAB_AUDIT_LOG", auditLog(state)},
	}
}

func printLog(state string, args []string) error {
	files, _ := filepath.Glob(filepath.Join(state, "log", "*.log"))
	ofNodes, _ := filepath.Glob(filepath.Join(state, "nodes", "*", "log", "*.log"))
	for _, f := range append(files, ofNodes...) {
		name := strings.TrimSuffix(filepath.Base(f), ".log")
		if strings.Contains(f, "/nodes/") {
			name = filepath.Base(filepath.Dir(filepath.Dir(f))) + "/" + name
		}
		if len(args) == 0 {
			fmt.Println(name)
		} else if args[0] == name {
			data, err := os.Open(f)
			if err != nil {
				return err
			}
			defer data.Close()
			_, err = io.Copy(os.Stdout, data)
			return err
		}
	}
	if len(args) > 0 {
		return fmt.Errorf("no log %q: lab logs", args[0])
	}
	return nil
}
