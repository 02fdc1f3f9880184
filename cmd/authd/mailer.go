package main

import (
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	netmail "net/mail"
	"net/netip"
	"net/url"
	"os"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/operator"
)

const (
	defaultMetricsAddr = "127.0.0.1:9464"
	off                = "off"
	mailboxPath        = "/dev/mailbox"
)

// mailConfig is mailSettings, checked.
type mailConfig struct {
	mailer        bool
	smtp          *mail.SMTP // nil without a server
	mailbox       bool
	service, site string // what mails call the service, and the host of links
}

// leaves tells whether a mail that is asked for gets anywhere.
func (c mailConfig) leaves() bool { return !c.mailer || c.smtp != nil || c.mailbox }

// checkMail reads the settings of mails that need no file. private tells whether the mailbox would
// be seen on this machine alone.
func (s mailSettings) checkMail(publicURL string, private bool) (c mailConfig, err error) {
	from, err := s.sender()
	if err != nil {
		return c, err
	}
	c.service, c.site = names(from, publicURL)
	if c.mailer, err = onOff("MAILER", s.Mailer, true); err != nil {
		return c, err
	}
	if s.SMTPURL != "" {
		if c.smtp, err = s.server(from); err != nil {
			return c, err
		}
	}
	if s.SMTPTLSCA != "" && s.SMTPURL == "" {
		return c, &settingError{"SMTP_TLS_CA", "is for a server, but SMTP_URL is empty", "\"\""}
	}
	if s.Mailbox == "" {
		c.mailbox = c.mailer && c.smtp == nil && private
		return c, nil
	}
	c.mailbox, err = onOff("MAILBOX", s.Mailbox, false)
	switch {
	case err != nil:
		return c, err
	case c.mailbox && c.smtp != nil:
		return c, &settingError{"MAILBOX", "is on, but SMTP_URL says where mails go", off}
	case c.mailbox && !c.mailer:
		return c, &settingError{"MAILBOX", "is on, but MAILER leaves mails to others", off}
	}
	return c, nil
}

// sender reads MAIL_FROM; nil if it is empty.
func (s letterSettings) sender() (*netmail.Address, error) {
	if s.MailFrom == "" {
		return nil, nil
	}
	from, err := mail.ParseSender(s.MailFrom)
	if err != nil {
		return nil, &settingError{"MAIL_FROM", fmt.Sprintf("%q is not an address with or without a name", s.MailFrom), "\"Acme <no-reply@acme.example>\""}
	}
	return from, nil
}

// displayName is what mails call the service if nobody says how.
const displayName = "Zyotra"

// names are what mails call the service, and the site that their links lead to.
func names(from *netmail.Address, publicURL string) (service, site string) {
	if public, err := url.Parse(publicURL); err == nil { // it was checked
		site = public.Hostname()
	}
	switch {
	case from == nil:
		return displayName, site
	case from.Name == "":
		return site, site
	}
	return from.Name, site
}

func (s mailSettings) server(from *netmail.Address) (*mail.SMTP, error) {
	server, err := mail.NewSMTP(s.SMTPURL, from)
	if err != nil {
		return nil, &settingError{"SMTP_URL", err.Error(), "smtp://authd:<password>@mail.example.com:587"}
	}
	if from == nil {
		return nil, &settingError{"MAIL_FROM", "is empty, but SMTP_URL is set", "\"Acme <no-reply@acme.example>\""}
	}
	if server.Hello = s.SMTPHello; s.SMTPHello != "" && !mail.IsHello(s.SMTPHello) {
		return nil, &settingError{"SMTP_HELLO", fmt.Sprintf("%q is not the name of a host", s.SMTPHello), "mx.acme.example"}
	}
	return server, nil
}

// checkMetricsAddr reads where operators' pages listen; "" is nowhere.
func (s serveSettings) checkMetricsAddr() (string, error) {
	switch s.MetricsAddr {
	case "":
		return defaultMetricsAddr, nil
	case off:
		if s.Mailbox == "on" {
			return "", &settingError{"METRICS_ADDR", "is off, but MAILBOX is on, which is shown there", defaultMetricsAddr}
		}
		return "", nil
	}
	_, port, err := net.SplitHostPort(s.MetricsAddr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", &settingError{"METRICS_ADDR", fmt.Sprintf("%q is not host:port or off", s.MetricsAddr), defaultMetricsAddr}
	}
	return s.MetricsAddr, nil
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return host
}

// isLoopback tells whether what listens on a host is reached from this machine alone.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// templates reads those built in and those of the settings.
func (s letterSettings) templates(service, site string) (*mail.Templates, error) {
	const name, example = "MAIL_TEMPLATES", "/etc/authd/mails"
	var overrides fs.FS
	if s.MailTemplates != "" {
		info, err := os.Stat(s.MailTemplates)
		switch {
		case err != nil:
			return nil, &settingError{name, "cannot be read: " + reason(err), example}
		case !info.IsDir():
			return nil, &settingError{name, "is not a directory", example}
		}
		overrides = os.DirFS(s.MailTemplates)
	}
	templates, err := mail.Load(overrides, service, site)
	if err != nil {
		return nil, &settingError{name, "cannot be used: " + err.Error(), example}
	}
	return templates, nil
}

// roots reads the authorities of the mail server; nil is the system's.
func (s mailSettings) roots() (*x509.CertPool, error) {
	if s.SMTPTLSCA == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if err := checkFile("SMTP_TLS_CA", s.SMTPTLSCA, "/etc/ssl/mail-ca.pem", pool.AppendCertsFromPEM); err != nil {
		return nil, err
	}
	return pool, nil
}

// openOperator opens the listener of operators' pages. That the usual address is taken by another
// instance on this machine keeps nobody from starting.
func (s *service) openOperator() error {
	if s.config.operatorAddr == "" {
		return nil
	}
	l, err := net.Listen("tcp", s.config.operatorAddr)
	switch {
	case err == nil:
		s.operator, s.operators = &operator.Server{Log: s.log}, l
		s.operator.Probes(s.health)
		s.onClose(func() error { _ = l.Close(); return nil }) // it is closed if it was served
		return nil
	case s.settings.MetricsAddr != "" || s.settings.Mailbox == "on":
		return fmt.Errorf("METRICS_ADDR: %w", err)
	}
	s.log.Warn("METRICS_ADDR is taken: there are no pages for operators", "err", err)
	return nil
}

// openMailer makes what sends mails, if this instance does.
func (s *service) openMailer() error {
	if !s.config.mail.mailer {
		return nil
	}
	templates, err := s.settings.templates(s.config.mail.service, s.config.mail.site)
	if err != nil {
		return err
	}
	sender, err := s.openSender()
	if err != nil {
		return err
	}
	if sender == nil {
		s.log.Warn("mails are not sent: there is no SMTP_URL. They wait in their queue for two days")
		return nil
	}
	conn, err := s.keepConnected(embedded.Mailer)
	if err != nil {
		return err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("mailer: %w", err)
	}
	s.mailer = &mail.Mailer{JS: js, Templates: templates, Sender: sender, Read: s.mails.Read, Seal: s.mails.Seal, Log: s.log}
	return nil
}

// openSender makes where mails go; nil if that is nowhere.
func (s *service) openSender() (mail.Sender, error) {
	switch c := s.config.mail; {
	case c.smtp != nil:
		var err error
		if c.smtp.Roots, err = s.settings.roots(); err != nil {
			return nil, err
		}
		s.log.Info("mails are sent", "to", c.smtp.String(), "from", c.smtp.From.String())
		return c.smtp, nil
	case c.mailbox && s.operator != nil:
		box := &mail.Mailbox{}
		s.operator.Page(mailboxPath, box.Handler())
		for _, below := range []string{mailboxPath + ".json", mailboxPath + "/"} {
			s.operator.Handle(below, box.Handler())
		}
		s.mailbox = "http://" + s.operators.Addr().String() + mailboxPath
		s.log.Warn("mails are sent to nobody: there is no SMTP_URL. They are kept in memory and shown to whoever opens the mailbox", "mailbox", s.mailbox)
		return box, nil
	}
	return nil, nil
}
