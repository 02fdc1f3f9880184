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

	"github.com/zyotra/auth/mail"
)

// mailConfig contains the checked values of mailSettings.
type mailConfig struct {
	mailer        bool
	smtp          *mail.SMTP // nil without a server
	mailbox       bool
	service, site string // the name of the service in mails, and the host of links
}

// leaves reports whether requested mails have a destination: a mail server, another mailer or the mailbox.
func (c mailConfig) leaves() bool { return !c.mailer || c.smtp != nil || c.mailbox }

// checkMail parses the settings of mails that require no file. private reports whether only this machine
// could open the mailbox.
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

// sender parses MAIL_FROM; it returns nil if that is empty.
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

// displayName is the name of the service in mails if MAIL_FROM is empty.
const displayName = "Zyotra"

// names returns the name of the service in mails, and the host of their links.
func names(from *netmail.Address, publicURL string) (service, site string) {
	if public, err := url.Parse(publicURL); err == nil { // the URL was checked
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

// checkMetricsAddr returns the address of the listener of operators' pages; "" is no listener.
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

// isLoopback reports whether only this machine can reach a listener on the host.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// templates reads the built-in templates and those of the settings.
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

// roots reads the certificate authorities for the mail server; nil selects the system's.
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

// letterSettings select the sender and the templates of mails.
type letterSettings struct {
	MailFrom      string `env:"MAIL_FROM" placeholder:"SENDER" help:"Sender of mails, as in \"Acme <no-reply@acme.example>\"; mails call the service by that name. Required with SMTP_URL."`
	MailTemplates string `env:"MAIL_TEMPLATES" placeholder:"DIR" help:"Templates of mails that take the place of those built in, file by file, as in DIR/en/verify_email.txt."`
}

// mailSettings select how mails are sent.
type mailSettings struct {
	letterSettings

	Mailer    string `env:"MAILER" default:"on" placeholder:"on|off" help:"off leaves mails in their queue for another service to send."`
	SMTPURL   string `name:"smtp-url" env:"SMTP_URL" placeholder:"URL" help:"Server that mails are handed to: smtp://user:password@host:587 begins TLS by STARTTLS, smtps://host:465 at once. ?tls=none and ?tls=opportunistic do without. Without one: mails wait in their queue, or go to the mailbox."`
	SMTPTLSCA string `name:"smtp-tls-ca" env:"SMTP_TLS_CA" placeholder:"FILE" help:"Certificate authorities that the server's certificate is checked against (PEM)."`
	SMTPHello string `name:"smtp-hello" env:"SMTP_HELLO" placeholder:"HOST" help:"Name of this host in EHLO. Without one: the name that the system has."`
	Mailbox   string `env:"MAILBOX" placeholder:"on|off" help:"Keep the last mails in memory instead of sending them, and show them under /dev/mailbox on METRICS_ADDR. Without one: on if SMTP_URL is empty and both HOST and METRICS_ADDR are on this machine alone."`
}
