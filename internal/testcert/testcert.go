// Package testcert makes certificates for servers of tests, on 127.0.0.1. It must not be used
// outside of tests.
package testcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates. Its directory is what "authd nats-config --tls" speaks of: the
// authority in ca.pem, and a server's certificate and key in server.pem and server-key.pem.
type Authority struct {
	Dir string

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority and, by it, a certificate of a server on 127.0.0.1, good for a day and
// for either end of a connection. Files have the mode 0600.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{Dir: t.TempDir()}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.make(t, "ca", template)
	a.Issue(t, "server", "127.0.0.1")
	return a
}

// Issue makes a certificate of a server at an address, in name.pem and name-key.pem.
func (a *Authority) Issue(t testing.TB, name, ip string) (certFile, keyFile string) {
	t.Helper()
	a.make(t, name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.ParseIP(ip)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return a.file(name + ".pem"), a.file(name + "-key.pem")
}

// CAFile is what clients check servers against.
func (a *Authority) CAFile() string { return a.file("ca.pem") }

func (a *Authority) file(name string) string { return filepath.Join(a.Dir, name) }

func (a *Authority) make(t testing.TB, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	check(t, writePEM(a.file(name+".pem"), "CERTIFICATE", der))
	check(t, writePEM(a.file(name+"-key.pem"), "PRIVATE KEY", secret))
	return cert, key
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
