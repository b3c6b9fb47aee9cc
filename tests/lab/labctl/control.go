package main

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

//go:embed manifests
var manifests embed.FS

// bootSteps are in the order in which they depend on each other.
func (l *lab) bootSteps(nodes int) []step {
	steps := []step{
		{"certificates", l.certificates},
		{"network", controlNetwork},
		{"etcd", l.etcd},
		{"API server", l.apiServer},
		{"controllers, scheduler, DNS", l.controllers},
	}
	names := make([]string, nodes)
	for i := range names {
		names[i] = nodeName(i + 1)
	}
	return append(steps,
		step{strings.Join(names, ", "), func() error { return l.startNodes(nodes) }},
		step{"storage class, service accounts", l.applyManifests},
		step{"services reached from the lab", l.controlProxy},
	)
}

func (l *lab) certificates() error {
	var err error
	if l.ca, err = newAuthority(l.pki(), "ca"); err != nil {
		return err
	}
	front, err := newAuthority(l.pki(), "front-proxy-ca")
	if err != nil {
		return err
	}
	// The service account's keys are a pair like any other.
	if _, err := newAuthority(l.pki(), "service-accounts"); err != nil {
		return err
	}
	if _, _, err := front.issue("front-proxy", pkix.Name{CommonName: "front-proxy"}); err != nil {
		return err
	}
	if _, _, err := l.ca.issue("api-server", pkix.Name{CommonName: "kube-apiserver"}, controlIP, apiServiceIP, "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"); err != nil {
		return err
	}
	if _, _, err := l.ca.issue("api-server-to-kubelet", pkix.Name{CommonName: "api-server-to-kubelet", Organization: []string{"system:masters"}}); err != nil {
		return err
	}
	for _, user := range []struct{ file, name, group string }{
		{"admin", "admin", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
		{"dns", "lab:dns", ""},
		{"volumes", "lab:volumes", ""},
	} {
		if err := l.ca.kubeconfig(l.kubeconfig(user.file), user.file, user.name, user.group); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) etcd() error {
	p := l.start("etcd", nil, "etcd", "--data-dir", filepath.Join(l.state, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--logger", "zap", "--quota-backend-bytes", "2147483648")
	return p.await(60*time.Second, func() error { return httpOK("http://127.0.0.1:2379/health") })
}

func (l *lab) apiServer() error {
	pki := func(name string) string { return filepath.Join(l.pki(), name) }
	p := l.start("kube-apiserver", nil, l.tool("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address="+controlIP, "--advertise-address="+controlIP, "--secure-port=6443",
		"--service-cluster-ip-range="+serviceRange,
		"--allow-privileged", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+pki("ca.crt"),
		"--tls-cert-file="+pki("api-server.crt"), "--tls-private-key-file="+pki("api-server.key"),
		"--kubelet-client-certificate="+pki("api-server-to-kubelet.crt"), "--kubelet-client-key="+pki("api-server-to-kubelet.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki("service-accounts.crt"), "--service-account-signing-key-file="+pki("service-accounts.key"),
		"--requestheader-client-ca-file="+pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+pki("front-proxy.crt"), "--proxy-client-key-file="+pki("front-proxy.key"),
		"--audit-log-path="+auditLog(l.state), "--audit-policy-file="+l.manifest("audit-policy.yaml"), "--audit-log-maxsize=500", "--audit-log-maxbackup=3",
		"--endpoint-reconciler-type=lease",
	)
	return p.await(180*time.Second, func() error { return httpOK("https://" + controlIP + ":6443/readyz") })
}

func auditLog(state string) string { return filepath.Join(state, "log", "audit.log") }

func (l *lab) controllers() error {
	pki := func(name string) string { return filepath.Join(l.pki(), name) }
	// One of each: an election would only write to the API.
	kcm := l.start("kube-controller-manager", nil, l.tool("kube-controller-manager"),
		"--kubeconfig="+l.kubeconfig("controller-manager"), "--bind-address=127.0.0.1", "--leader-elect=false",
		"--use-service-account-credentials", "--root-ca-file="+pki("ca.crt"),
		"--service-account-private-key-file="+pki("service-accounts.key"),
		"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"),
		"--service-cluster-ip-range="+serviceRange,
		// A lost node is to be noticed while a test waits for it.
		"--node-monitor-grace-period=15s", "--node-monitor-period=2s",
		"--flex-volume-plugin-dir="+filepath.Join(l.state, "flexvolume"))
	scheduler := l.start("kube-scheduler", nil, l.tool("kube-scheduler"),
		"--kubeconfig="+l.kubeconfig("scheduler"), "--bind-address=127.0.0.1", "--leader-elect=false")
	corefile := fmt.Sprintf(`.:53 {
    bind %s
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {
        kubeconfig %s lab
        pods insecure
        ttl 5
    }
    cache 5
}
`, controlIP, l.kubeconfig("dns"))
	if err := os.WriteFile(filepath.Join(l.state, "Corefile"), []byte(corefile), 0o600); err != nil {
		return err
	}
	// Without its role CoreDNS cannot become ready.
	if err := l.apply("dns.yaml"); err != nil {
		return err
	}
	dns := l.start("coredns", nil, l.tool("coredns"), "-conf", filepath.Join(l.state, "Corefile"))
	return errors.Join(
		kcm.await(120*time.Second, func() error { return httpOK("https://127.0.0.1:10257/healthz") }),
		scheduler.await(120*time.Second, func() error { return httpOK("https://127.0.0.1:10259/healthz") }),
		dns.await(120*time.Second, func() error { return httpOK("http://127.0.0.1:8181/ready") }),
	)
}

func (l *lab) applyManifests() error {
	if err := l.apply("volumes.yaml"); err != nil {
		return err
	}
	// Pods are refused before the namespace has its service account.
	return waitFor(60*time.Second, func() error {
		return l.kubectl(nil, "get", "serviceaccount", "default", "-n", "default")
	})
}

// controlProxy makes service addresses work in the network of the control plane too, for `lab exec`
// and for the API server's webhooks. A proxy wants to be on a node: it takes the first one's name.
func (l *lab) controlProxy() error {
	p := l.start("kube-proxy", nil, kubeProxy(l, nodeName(1), controlIP)...)
	return p.await(60*time.Second, func() error { return tcpOK(apiServiceIP + ":443") })
}

func kubeProxy(l *lab, node, address string) []string {
	return []string{l.tool("kube-proxy"), "--kubeconfig=" + l.kubeconfig("kube-proxy"), "--hostname-override=" + node, "--bind-address=" + address,
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
		"--proxy-mode=nftables", "--cluster-cidr=" + podRange, "--conntrack-max-per-core=0"}
}

func (l *lab) manifest(name string) string { return filepath.Join(l.state, "manifests", name) }

func (l *lab) apply(name string) error {
	return waitFor(60*time.Second, func() error { return l.kubectl(nil, "apply", "-f", l.manifest(name)) })
}

func (l *lab) kubectl(out *string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	text, err := output(ctx, nil, append([]string{l.tool("kubectl"), "--kubeconfig", kubeconfigPath(l.state)}, args...)...)
	if out != nil {
		*out = text
	}
	return err
}

// The health endpoints are asked before anything secret is said, by processes of the same lab.
var health = &http.Client{
	Timeout:   3 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
}

func httpOK(url string) error {
	response, err := health.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

func tcpOK(address string) error {
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
