package main

import (
	"fmt"
	"path/filepath"
)

func containerdConfig(n *node) string {
	return fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`, filepath.Join(n.dir, "containerd"), filepath.Join(n.dir, "cni"))
}

// Pods are routed, not bridged: so every packet, also between two pods of a node, passes the
// node's connection tracking, without the machine's bridge-nf settings.
func cniConfig(n *node) string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0",
  "name": "lab",
  "plugins": [{
    "type": "ptp",
    "ipam": {
      "type": "host-local",
      "dataDir": "/run/cni-addresses",
      "ranges": [[{"subnet": %q}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
`, nodePods(n.number))
}

func kubeletConfig(l *lab, n *node, cert, key, resolv string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
healthzBindAddress: 127.0.0.1
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[2]q}
authorization: {mode: Webhook}
tlsCertFile: %[3]q
tlsPrivateKeyFile: %[4]q
clusterDomain: cluster.local
clusterDNS: [%[5]s]
resolvConf: %[6]q
cgroupDriver: cgroupfs
cgroupRoot: /%[7]s
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
# The machine's disk is not the lab's: neither pods nor images go because of others' files.
evictionHard: {imagefs.available: "0%%", nodefs.available: "0%%", memory.available: "50Mi"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# Soon enough for the grace period that the controller manager gives a silent node.
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: 12
maxPods: 100
volumePluginDir: %[8]q
`, nodeIP(n.number), filepath.Join(l.pki(), "ca.crt"), cert, key, dnsServiceIP, resolv,
		filepath.Join(cgroupName(l.state), n.name), filepath.Join(n.dir, "kubelet/flexvolume"))
}
