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

// dialWithin limits the time to connect to a server.
const dialWithin = 10 * time.Second

// SMTP sends letters to a mail server. Create it with NewSMTP.
type SMTP struct {
	From  *netmail.Address
	Hello string         // name of this host in EHLO; "" is the host name of the system
	Roots *x509.CertPool // authorities that the server's certificate is checked against; nil is the system's

	host, user, password string
	port                 int
	implicit             bool // TLS from the first byte
	starttls             gomail.TLSPolicy
}

// The errors of an SMTP URL. None repeats the URL, which may hold a password.
var (
	errSMTPURL     = errors.New("is not smtp://user:password@host:587 or smtps://host:465")
	errSMTPOption  = errors.New("has an option that is not tls=none or tls=opportunistic")
	errSMTPExposed = errors.New("has a password, which would be sent without encryption")
)

// errSender means that the text is not an address with or without a name.
var errSender = errors.New("is not an address with or without a name")

// The errors of a server that accepts only ASCII addresses.
var (
	errRecipientUTF8 = errors.New("smtp: the server does not offer SMTPUTF8, which the recipient's address needs")
	errSenderUTF8    = errors.New("smtp: the server does not offer SMTPUTF8, which the address of MAIL_FROM needs")
)

// domains is IDNA2008 for registration. It maps nothing; ParseSender lowers the letter case before.
var domains = idna.New(idna.ValidateForRegistration(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// ParseSender reads the sender of mails (RFC 5322 §3.4). It converts a domain that is not ASCII to
// A-labels (RFC 5890), which every server accepts. It returns errSender for an invalid sender.
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

// hostName matches a host name, or an address literal as in EHLO (RFC 5321 §4.1.1.1).
var hostName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Za-z.:]+\])$`)

// IsHello reports whether a name is valid in EHLO.
func IsHello(name string) bool { return len(name) <= 255 && hostName.MatchString(name) }

// NewSMTP returns a sender for the server of a URL: smtp://user:password@host:port requires STARTTLS and
// sends nothing without it, smtps://host:port begins with TLS. The default ports are 587 and 465. For smtp
// only, ?tls=none sends without TLS, and ?tls=opportunistic does so if the server does not support
// STARTTLS. NewSMTP refuses a password with these options unless the host is this machine.
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

// relax applies the option tls, which lowers the TLS requirement.
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

// String returns the URL of the server, without user and password.
func (s *SMTP) String() string {
	scheme := "smtp"
	if s.implicit {
		scheme = "smtps"
	}
	return scheme + "://" + net.JoinHostPort(s.host, strconv.Itoa(s.port))
}

// Send sends a letter to the server over a separate connection, which ends with ctx. It returns
// a Refused if the server permanently refuses the letter.
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
	defer func() { _ = client.CloseWithSMTPClient(conn) }() // the result of Send is known before the connection closes
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

// isASCII reports whether an address is ASCII, which every server accepts. Other addresses need
// SMTPUTF8 (RFC 6531).
func isASCII(address string) bool {
	return !strings.ContainsFunc(address, func(r rune) bool { return r >= utf8.RuneSelf })
}

// Probe connects to the server as Send does, with TLS and credentials, and disconnects without
// sending a letter. It ends with ctx.
func (s *SMTP) Probe(ctx context.Context) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	if err := client.DialWithContext(ctx); err != nil {
		return fmt.Errorf("smtp: %w", err)
	}
	_ = client.Close() // the probe has succeeded already
	return nil
}

// message converts a letter to a message of go-mail, which encodes headers that are not ASCII and refuses
// headers with line breaks. The headers omit the recipient's name, which may be chosen to mislead.
func (s *SMTP) message(l Letter) (*gomail.Msg, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(s.From)
	if err := msg.To(l.Mail.To); err != nil {
		return nil, errors.New("the recipient's address is none") // go-mail's error repeats it
	}
	msg.Subject(l.Subject)
	msg.SetMessageIDWithValue(MessageID(l.ID, s.From))
	msg.SetDateWithValue(l.Time)
	// RFC 3834 §5: suppresses out-of-office replies.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, l.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, l.HTML)
	return msg, nil
}

// MessageID returns the Message-ID of a mail, without brackets. It is the same for each attempt, so
// receivers recognise a mail that was sent twice because a confirmation was lost.
func MessageID(id string, from *netmail.Address) string {
	return id + from.Address[strings.LastIndexByte(from.Address, '@'):]
}

// client returns a client for one letter, since its connection ends with ctx.
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
			context.AfterFunc(ctx, func() { _ = conn.Close() }) // go-mail would extend a deadline
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

// refused returns the error of a letter that was not accepted. A permanent negative reply (RFC 5321
// §4.2.1: 5yz) to the recipient or to the letter is a Refused. Any other failure is a fault of the server
// or of this service, which may be repaired before the mail is abandoned.
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
