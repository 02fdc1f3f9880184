package main

import (
	"fmt"
	"net"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/admin"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/mail"
)

const (
	defaultMetricsAddr = "127.0.0.1:9464"
	off                = "off"
	mailboxPath        = "/dev/mailbox"
)

// openOperator opens the listener of operators' pages. If another instance on this machine uses the
// default address, openOperator logs a warning and the service starts, unless MAILBOX=on.
func (s *service) openOperator() error {
	if s.config.operatorAddr == "" {
		return nil
	}
	l, err := net.Listen("tcp", s.config.operatorAddr)
	switch {
	case err == nil:
		s.admin, s.operators = &admin.Server{Log: s.log}, l
		s.admin.Probes(s.health)
		s.onClose(func() error { _ = l.Close(); return nil }) // Run has already closed it if it ran
		return nil
	case s.settings.MetricsAddr != "" || s.settings.Mailbox == "on":
		return fmt.Errorf("METRICS_ADDR: %w", err)
	}
	s.log.Warn("METRICS_ADDR is taken: there are no pages for operators", "err", err)
	return nil
}

// openMailer creates the mailer, if this instance sends mails.
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

// openSender returns the destination of mails: a mail server or the mailbox; nil if there is neither.
func (s *service) openSender() (mail.Sender, error) {
	switch c := s.config.mail; {
	case c.smtp != nil:
		var err error
		if c.smtp.Roots, err = s.settings.roots(); err != nil {
			return nil, err
		}
		s.log.Info("mails are sent", "to", c.smtp.String(), "from", c.smtp.From.String())
		return c.smtp, nil
	case c.mailbox && s.admin != nil:
		box := &mail.Mailbox{}
		s.admin.Page(mailboxPath, box.Handler())
		for _, below := range []string{mailboxPath + ".json", mailboxPath + "/"} {
			s.admin.Handle(below, box.Handler())
		}
		s.mailbox = "http://" + s.operators.Addr().String() + mailboxPath
		s.log.Warn("mails are sent to nobody: there is no SMTP_URL. They are kept in memory and shown to whoever opens the mailbox", "mailbox", s.mailbox)
		return box, nil
	}
	return nil, nil
}
