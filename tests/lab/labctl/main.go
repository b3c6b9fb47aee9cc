// labctl runs a Kubernetes cluster of several nodes on one Linux machine, inside namespaces that
// it makes itself.
//
// The whole lab hangs on one process, "init": process 1 of a process namespace, with a mount and a
// network namespace of its own, which runs the control plane. Each node is such a process again,
// nested in the first. So the end of a node, or of the lab, is one SIGKILL: the kernel ends every
// process of the namespace and takes its mounts, links and addresses with it.
package main

import (
	"fmt"
	"os"
)

const usage = `usage: lab COMMAND
  up [--nodes N]        make the lab (3 nodes) and wait until it is ready
  down                  end it; nothing of it stays
  status                what runs, where, since when
  load-image FILE       a docker or OCI archive, onto every node (also those added later)
  kubectl ARGS…         the cluster's kubectl
  helm ARGS…            Helm 4 with the cluster's kubeconfig
  exec CMD…             run a command in the lab's network, with the cluster's DNS
  on NODE CMD…          run a command on a node
  partition NODE        cut the node off from everything
  heal NODE             undo it
  kill-node NODE        the node's power goes off; its disks stay
  start-node NODE       and on again
  add-node              one more node; prints its name
  env                   the lab's paths and addresses as shell variables
  logs [PART]           the log of a part ("logs" lists them)
  build                 only build what is needed into the cache
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
}

func run(command string, args []string) error {
	// These three are the processes inside; they are told all they need by their arguments.
	switch command {
	case "lab-init":
		return labInit(args)
	case "node-init":
		return nodeInit(args)
	case "node-volumes":
		return nodeVolumes(args)
	}
	state, err := stateDir()
	if err != nil {
		return err
	}
	switch command {
	case "up":
		return up(state, args)
	case "down":
		return down(state)
	case "kubectl", "helm":
		return execTool(state, command, args)
	case "exec":
		return execInside(state, args)
	case "on":
		return execOnNode(state, args)
	case "env":
		return printEnv(state)
	case "logs":
		return printLog(state, args)
	case "status", "load-image", "partition", "heal", "kill-node", "start-node", "add-node":
		return ask(state, command, args)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("no command %q: lab help", command)
}
