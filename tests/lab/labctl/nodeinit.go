package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// nodeTmpfs are the directories that a node has for itself, empty at each start: the sockets, the
// state of containers, and addresses given to pods have no meaning after its power was off.
var nodeTmpfs = []string{"/run", "/var/lib", "/var/log"}

// nodeInit is a node's first process. It starts the agents, and its end is the node's.
func nodeInit(args []string) error {
	awaitRelease()
	if len(args) != 3 {
		return errors.New("node-init STATE BIN NUMBER")
	}
	number, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	l := &lab{state: args[0], bin: args[1]}
	n := &node{number: number, name: nodeName(number), dir: filepath.Join(l.state, "nodes", nodeName(number))}
	go reapOrphans()
	if err := nodeView(n); err != nil {
		return err
	}
	if err := forwarding(); err != nil {
		return err
	}
	// Before the kubelet, which would take an empty directory for the volume.
	if err := mountVolumes(context.Background(), filepath.Join(n.dir, "volumes")); err != nil {
		return err
	}
	logs := filepath.Join(n.dir, "log")
	containerd := start(logs, "containerd", nil, "containerd", "--config", filepath.Join(n.dir, "containerd.toml"))
	if err := containerd.await(60*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return command(ctx, "ctr", "--connect-timeout", "2s", "version")
	}); err != nil {
		return err
	}
	if err := importImages(context.Background(), filepath.Join(l.state, "images")); err != nil {
		return err
	}
	start(logs, "kubelet", nil, l.tool("kubelet"),
		"--config="+filepath.Join(n.dir, "kubelet.yaml"), "--kubeconfig="+filepath.Join(n.dir, "kubeconfig"),
		"--root-dir="+filepath.Join(n.dir, "kubelet"), "--cert-dir="+filepath.Join(n.dir, "kubelet/pki"),
		"--node-ip="+nodeIP(number), "--hostname-override="+n.name,
		"--node-labels=topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=zone-"+strconv.Itoa(number))
	start(logs, "kube-proxy", nil, kubeProxy(l, n.name, nodeIP(number))...)
	start(logs, "volumes", nil, l.tool("labctl"), "node-volumes", n.name, filepath.Join(n.dir, "volumes"), l.kubeconfig("volumes"))
	log.Print("agents started")
	select {}
}

// nodeView gives the node its own host name and its own view of the machine's files.
func nodeView(n *node) error {
	if err := syscall.Sethostname([]byte(n.name)); err != nil {
		return err
	}
	if err := ownMounts("/proc"); err != nil {
		return err
	}
	for _, dir := range nodeTmpfs {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := syscall.Mount(filepath.Join(n.dir, "var-log"), "/var/log", "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	// The kubelet sets these for the whole machine. In the lab it writes into files of its own.
	for i, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		path := filepath.Join("/proc/sys", name)
		value, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		file := filepath.Join(n.dir, "tmp", "sysctl-"+strconv.Itoa(i))
		if err := os.WriteFile(file, value, 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(file, path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return nil
}
