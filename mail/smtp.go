package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"
	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// dialWithin is how long a server may take to be connected to.
const dialWithin = 10 * time.Second

// SMTP sends letters to a mail server. It is made by NewSMTP.
type SMTP struct {
	From  *netmail.Address
	Hello string         // name of this host in EHLO; "" is the name that the system has
	Roots *x509.CertPool // that the server's certificate is checked against; nil is the system's

	host, user, password string
	port                 int
	implicit             bool // TLS from the first byte
	starttls             gomail.TLSPolicy
}

// The faults of an SMTP URL. None repeats the URL, which may hold a password.
var (
	errSMTPURL     = errors.New("is not smtp://user:password@host:587 or smtps://host:465")
	errSMTPOption  = errors.New("has an option that is not tls=none or tls=opportunistic")
	errSMTPExposed = errors.New("has a password, which would be sent without encryption")
)

// errSender means that the text is not an address with or without a name.
var errSender = errors.New("is not an address with or without a name")

// The faults of a server that takes addresses in ASCII alone.
var (
	errRecipientUTF8 = errors.New("smtp: the server does not offer SMTPUTF8, which the recipient's address needs")
	errSenderUTF8    = errors.New("smtp: the server does not offer SMTPUTF8, which the address of MAIL_FROM needs")
)

// domains is IDNA2008 for registration, which maps nothing but letter case, done before.
var domains = idna.New(idna.ValidateForRegistration(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// ParseSender reads the sender of mails (RFC 5322 §3.4). A domain that is not ASCII becomes its
// A-labels (RFC 5890), which every server takes.
func ParseSender(text string) (*netmail.Address, error) {
	from, err := netmail.ParseAddress(text)
	if err != nil {
		return nil, errSender
	}
	at := strings.LastIndexByte(from.Address, '@')
	domain := from.Address[at+1:]
	if isASCII(domain) {
		return from, nil
	}
	ascii, err := domains.ToASCII(norm.NFC.String(strings.ToLower(domain)))
	if err != nil {
		return nil, errSender
	}
	from.Address = from.Address[:at+1] + ascii
	return from, nil
}

// hostName is a name of a host, or an address as EHLO has it (RFC 5321 §4.1.1.1).
var hostName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Za-z.:]+\])$`)

// IsHello reports whether a name may stand in EHLO.
func IsHello(name string) bool { return len(name) <= 255 && hostName.MatchString(name) }

// NewSMTP reads where mails go: smtp://user:password@host:port, which begins TLS by STARTTLS and
// sends nothing if the server cannot, or smtps://host:port, which begins with it. Ports are 587
// and 465 unless they are given. ?tls=none and ?tls=opportunistic, for smtp alone, do without TLS,
// or do if the server cannot; a password then goes to this machine only.
func NewSMTP(text string, from *netmail.Address) (*SMTP, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return nil, errSMTPURL
	}
	s := &SMTP{From: from, host: u.Hostname(), user: u.User.Username()}
	s.password, _ = u.User.Password()
	switch u.Scheme {
	case "smtp":
		s.port, s.starttls = 587, gomail.TLSMandatory
	case "smtps":
		s.port, s.implicit = 465, true
	default:
		return nil, errSMTPURL
	}
	if u.Port() != "" {
		if s.port, err = strconv.Atoi(u.Port()); err != nil || s.port < 1 || s.port > 65535 {
			return nil, errSMTPURL
		}
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errSMTPOption
	}
	return s, s.relax(options)
}

// relax reads how much TLS there has to be.
func (s *SMTP) relax(options url.Values) error {
	if len(options) == 0 {
		return nil
	}
	values := options["tls"]
	if len(options) > 1 || len(values) != 1 || s.implicit {
		return errSMTPOption
	}
	switch values[0] {
	case "none":
		s.starttls = gomail.NoTLS
	case "opportunistic":
		s.starttls = gomail.TLSOpportunistic
	default:
		return errSMTPOption
	}
	if s.password != "" && !isLoopback(s.host) {
		return errSMTPExposed
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// String is where letters go, without user and password.
func (s *SMTP) String() string {
	scheme := "smtp"
	if s.implicit {
		scheme = "smtps"
	}
	return scheme + "://" + net.JoinHostPort(s.host, strconv.Itoa(s.port))
}

// Send hands a letter to the server over a connection of its own, which ends with ctx. It returns
// a Refused if the server will never take the letter.
func (s *SMTP) Send(ctx context.Context, l Letter) error {
	msg, err := s.message(l)
	if err != nil {
		return &Refused{err}
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	conn, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return fmt.Errorf("smtp: %w", err)
	}
	defer func() { _ = client.CloseWithSMTPClient(conn) }() // the letter is in their hands or not, however they part
	if extended, _ := conn.Extension("SMTPUTF8"); !extended {
		switch {
		case !isASCII(s.From.Address):
			return errSenderUTF8
		case !isASCII(l.Mail.To):
			return &Refused{errRecipientUTF8}
		}
	}
	err = client.SendWithSMTPClient(conn, msg)
	if msg.IsDelivered() {
		return nil
	}
	return refused(err)
}

// isASCII reports whether every server takes the address. The others need SMTPUTF8 (RFC 6531).
func isASCII(address string) bool {
	return !strings.ContainsFunc(address, func(r rune) bool { return r >= utf8.RuneSelf })
}

// Probe connects to the server as Send does, with TLS and credentials, and takes leave without a
// letter. It ends with ctx.
func (s *SMTP) Probe(ctx context.Context) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	if err := client.DialWithContext(ctx); err != nil {
		return fmt.Errorf("smtp: %w", err)
	}
	_ = client.Close() // whatever becomes of the parting
	return nil
}

// message is a letter as go-mail sends it. It encodes what is not ASCII and refuses what is not one
// line. The recipient's name stays out of the headers: they may have chosen it to mislead.
func (s *SMTP) message(l Letter) (*gomail.Msg, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(s.From)
	if err := msg.To(l.Mail.To); err != nil {
		return nil, errors.New("the recipient's address is none") // go-mail's error repeats it
	}
	msg.Subject(l.Subject)
	msg.SetMessageIDWithValue(MessageID(l.ID, s.From))
	msg.SetDateWithValue(l.Time)
	// RFC 3834 §5: no out-of-office reply to this, please.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, l.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, l.HTML)
	return msg, nil
}

// MessageID is the Message-ID of a mail, without brackets: the same each time it is tried, by which
// receivers recognise what a lost confirmation made the sender send twice.
func MessageID(id string, from *netmail.Address) string {
	return id + from.Address[strings.LastIndexByte(from.Address, '@'):]
}

// client is made for one letter, since its connection ends with ctx.
func (s *SMTP) client(ctx context.Context) (*gomail.Client, error) {
	config := &tls.Config{ServerName: s.host, RootCAs: s.Roots, MinVersion: tls.VersionTLS12}
	options := []gomail.Option{
		gomail.WithPort(s.port), gomail.WithTLSPolicy(s.starttls), gomail.WithTLSConfig(config),
		gomail.WithTimeout(sendWithin), gomail.WithoutNoop(), gomail.WithoutRset(),
		gomail.WithDialContextFunc(func(dialing context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(dialing, network, address)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, func() { _ = conn.Close() }) // go-mail would prolong a deadline
			if !s.implicit {
				return conn, nil
			}
			return tls.Client(conn, config), nil
		}),
	}
	if s.Hello != "" {
		options = append(options, gomail.WithHELO(s.Hello))
	}
	if s.user != "" {
		options = append(options, gomail.WithUsername(s.user), gomail.WithPassword(s.password), gomail.WithOpportunisticSMTPAuth(
			gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin, gomail.SMTPAuthCramMD5,
		))
	}
	client, err := gomail.NewClient(s.host, options...)
	if err != nil {
		return nil, fmt.Errorf("smtp: %w", err)
	}
	return client, nil
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialWithin}).DialContext(ctx, network, address)
}

// refused is the error of a letter that was not taken. What the server says for good of the
// recipient or of the letter is Refused (RFC 5321 §4.2.1: 5yz); anything else is about the server
// or us, and may be repaired before the mail is given up.
func refused(err error) error {
	var failed *gomail.SendError
	if !errors.As(err, &failed) {
		return fmt.Errorf("smtp: %w", err)
	}
	switch failed.Reason {
	case gomail.ErrSMTPRcptTo, gomail.ErrSMTPData, gomail.ErrSMTPDataClose:
		if code := failed.ErrorCode(); code >= 500 && code < 600 {
			return &Refused{fmt.Errorf("smtp: %w", err)}
		}
	}
	return fmt.Errorf("smtp: %w", err)
}
