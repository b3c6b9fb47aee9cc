package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// authority is a certificate authority, with its files in one directory.
type authority struct {
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(dir, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certTemplate(pkix.Name{CommonName: "lab " + name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{dir, name, cert, key}, writePair(dir, name, der, key)
}

func (a *authority) certFile() string { return filepath.Join(a.dir, a.name+".crt") }
func (a *authority) keyFile() string  { return filepath.Join(a.dir, a.name+".key") }

// issue writes NAME.crt and NAME.key: for a client and, with addresses or names, also for a server.
func (a *authority) issue(name string, subject pkix.Name, hosts ...string) (cert, key string, err error) {
	template := certTemplate(subject)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if address := net.ParseIP(h); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return "", "", err
	}
	return filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key"), writePair(a.dir, name, der, private)
}

// kubeconfig writes the file with which `user` reaches the API server.
func (a *authority) kubeconfig(path, name, user string, groups ...string) error {
	groups = slices.DeleteFunc(groups, func(g string) bool { return g == "" })
	cert, key, err := a.issue(name, pkix.Name{CommonName: user, Organization: groups})
	if err != nil {
		return err
	}
	inline := func(file string) string {
		data, readErr := os.ReadFile(file)
		if readErr != nil {
			err = readErr
		}
		return base64.StdEncoding.EncodeToString(data)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: lab
clusters: [{name: lab, cluster: {server: "https://%s:6443", certificate-authority-data: %s}}]
contexts: [{name: lab, context: {cluster: lab, user: %q}}]
users: [{name: %q, user: {client-certificate-data: %s, client-key-data: %s}}]
`, controlIP, inline(a.certFile()), user, user, inline(cert), inline(key))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

func certTemplate(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
}

func writePair(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(file, kind string, data []byte) error {
		return os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600)
	}
	if err := write(name+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	return write(name+".key", "PRIVATE KEY", private)
}
