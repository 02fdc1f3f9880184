// Package testsmtp is a mail server for tests, over TLS and with a password, which keeps what it
// takes and can be told to misbehave.
package testsmtp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// patience is how long a letter may take that is bound to come.
const patience = 2 * time.Minute

// What the server wants to hear.
const (
	user     = "authd"
	password = "correct/horse@battery"
)

// Fault is how the server meets one try.
type Fault int

// The faults.
const (
	None          Fault = iota
	Later               // 451 to the recipient
	Never               // 550 to the recipient
	LaterData           // 452 to the letter
	NeverData           // 554 to the letter
	Hang                // no answer to the recipient, until the client or the server goes
	CutInData           // the connection ends while the letter is sent
	CutAfterData        // it ends when the letter was taken, before that is said
	NeverSoSpoken       // 550 with a text that repeats the address
)

// Letter is a mail that the server has taken.
type Letter struct {
	From, To   string // of the envelope
	Hello      string // the name in EHLO
	Header     mail.Header
	Text, HTML string
	Link       string // the first in the text
	Code       string // the first eight digits that stand alone in the text
}

// Subject is decoded.
func (l Letter) Subject() string {
	subject, err := new(mime.WordDecoder).DecodeHeader(l.Header.Get("Subject"))
	if err != nil {
		return l.Header.Get("Subject")
	}
	return subject
}

// Server is a running mail server.
type Server struct {
	URL    string // smtp://user:password@host:port
	UTF8   bool   // offers SMTPUTF8 (RFC 6531) from the next Up on
	CAFile string // the authority of its certificate (PEM)

	address string
	config  *tls.Config

	mu      sync.Mutex
	server  *smtp.Server // nil while it is down
	gone    chan struct{}
	faults  map[string][]Fault // by recipient, for the tries to come
	letters map[string][]Letter
	read    map[string]int // how many Wait has returned
	tries   map[string]int
	more    chan struct{} // closed when something happens
}

// Start starts a server on loopback, which ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		address: "127.0.0.1:0", faults: map[string][]Fault{}, letters: map[string][]Letter{},
		read: map[string]int{}, tries: map[string]int{}, more: make(chan struct{}),
	}
	s.certify(t)
	s.Up(t)
	s.URL = "smtp://authd:correct%2Fhorse%40battery@" + s.address
	t.Cleanup(s.Down)
	return s
}

// certify makes a certificate, and its file.
func (s *Server) certify(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.config = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.CAFile = filepath.Join(t.TempDir(), "smtp-ca.pem")
	if err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Up starts the server where it was, after Down.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = make(chan struct{})
	gone := s.gone
	s.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{server: s, conn: c, gone: gone}, nil
	}))
	s.server.TLSConfig, s.server.Domain, s.server.EnableSMTPUTF8 = s.config, "mail.test", s.UTF8
	s.server.ErrorLog = log.New(io.Discard, "", 0)
	server := s.server
	go func() { _ = server.Serve(l) }()
}

// Down ends the server and its connections.
func (s *Server) Down() {
	s.mu.Lock()
	server, gone := s.server, s.gone
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		close(gone)
		_ = server.Close()
	}
}

// Meet lets the next tries for a recipient meet faults, in this order.
func (s *Server) Meet(to string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[to] = append(s.faults[to], faults...)
}

// Wait returns the next letter to an address, in the order of their coming.
func (s *Server) Wait(t testing.TB, to string) Letter {
	t.Helper()
	var letter Letter
	s.until(t, "no letter to "+to, func() bool {
		list := s.letters[to][s.read[to]:]
		if len(list) == 0 {
			return false
		}
		letter = list[0]
		s.read[to]++
		return true
	})
	return letter
}

// Tried waits until a recipient was named so often in all.
func (s *Server) Tried(t testing.TB, to string, times int) {
	t.Helper()
	s.until(t, "too few tries for "+to, func() bool { return s.tries[to] >= times })
}

// until waits for what is told by more. so is called under the lock.
func (s *Server) until(t testing.TB, what string, so func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		done, more := so(), s.more
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-more:
		case <-late:
			t.Fatal(what)
		}
	}
}

// Letters are all that came for an address, whether or not Wait has returned them.
func (s *Server) Letters(to string) []Letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Letter(nil), s.letters[to]...)
}

// tried notes a try and returns what it meets.
func (s *Server) tried(to string) (fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries[to]++
	s.tell()
	if list := s.faults[to]; len(list) > 0 {
		fault, s.faults[to] = list[0], list[1:]
	}
	return fault
}

func (s *Server) keep(l Letter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letters[l.To] = append(s.letters[l.To], l)
	s.tell()
}

func (s *Server) tell() {
	close(s.more)
	s.more = make(chan struct{})
}

// session is one connection.
type session struct {
	server   *Server
	conn     *smtp.Conn
	gone     chan struct{}
	loggedIn bool
	from, to string
	fault    Fault
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, u, p string) error {
		if u != user || p != password {
			return smtp.ErrAuthFailed
		}
		s.loggedIn = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if !s.loggedIn {
		return smtp.ErrAuthRequired
	}
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to, s.fault = to, s.server.tried(to)
	switch s.fault {
	case Later:
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "Try again later"}
	case Never:
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user here"}
	case NeverSoSpoken:
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "<" + to + ">: no such user"}
	case Hang:
		<-s.gone
		return errors.New("gone")
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	switch s.fault {
	case LaterData:
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "Disk full"}
	case NeverData:
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "We do not like it"}
	case CutInData:
		_, _ = io.CopyN(io.Discard, r, 100)
		_ = s.conn.Conn().Close()
		return errors.New("cut")
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	letter, err := parse(content)
	if err != nil {
		return err
	}
	letter.From, letter.To, letter.Hello = s.from, s.to, s.conn.Hostname()
	s.server.keep(letter)
	if s.fault == CutAfterData {
		_ = s.conn.Conn().Close()
		return errors.New("cut")
	}
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

var (
	link = regexp.MustCompile(`https?://[^\s<>"]+`)
	code = regexp.MustCompile(`\b\d{8}\b`)
)

// parse reads a letter, which has to have a text and HTML as alternatives.
func parse(content []byte) (l Letter, err error) {
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		return l, err
	}
	l.Header = m.Header
	kind, parameters, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return l, err
	}
	if kind != "multipart/alternative" {
		return l, errors.New("a letter of type " + kind)
	}
	parts := multipart.NewReader(m.Body, parameters["boundary"])
	for {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return l, err
		}
		var body io.Reader = part
		if part.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			body = quotedprintable.NewReader(part)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return l, err
		}
		switch kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type")); kind {
		case "text/plain":
			l.Text = string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
		case "text/html":
			l.HTML = string(text)
		}
	}
	l.Link = link.FindString(l.Text)
	l.Code = code.FindString(link.ReplaceAllString(l.Text, ""))
	return l, nil
}
