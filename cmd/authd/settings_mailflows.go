package main

import (
	"fmt"
	"time"

	"github.com/zyotra/auth/handlers"
)

// checkFlows parses the settings of flows with mail. leaves reports whether mails have a destination: if
// not, checkFlows returns nil, and an error if a setting requires mail.
func (s flowSettings) checkFlows(publicURL string, leaves bool) (*flowConfig, error) {
	m := &flowConfig{publicURL: publicURL, verification: handlers.Verification(s.EmailVerification)}
	switch m.verification {
	case handlers.VerificationOff, handlers.VerificationOptional, handlers.VerificationRequired:
	default:
		return nil, &settingError{"EMAIL_VERIFICATION", fmt.Sprintf("%q is not off, optional or required", s.EmailVerification), "optional"}
	}
	var err error
	if m.login, err = onOff("MAIL_LOGIN", s.MailLogin, false); err != nil {
		return nil, err
	}
	if m.newDevice, err = onOff("NEW_DEVICE_NOTICE", s.NewDeviceNotice, m.verification != handlers.VerificationOff); err != nil {
		return nil, err
	}
	if err := s.checkTimes(m); err != nil {
		return nil, err
	}
	switch {
	case leaves:
		return m, nil
	case m.verification != handlers.VerificationOff:
		return nil, &settingError{"EMAIL_VERIFICATION", "needs mail: SMTP_URL, MAILBOX=on, or MAILER=off if others send it", off}
	case m.login:
		return nil, &settingError{"MAIL_LOGIN", "needs mail: SMTP_URL, MAILBOX=on, or MAILER=off if others send it", off}
	case m.newDevice:
		return nil, &settingError{"NEW_DEVICE_NOTICE", "needs mail: SMTP_URL, MAILBOX=on, or MAILER=off if others send it", off}
	}
	return nil, nil
}

func (s flowSettings) checkTimes(m *flowConfig) (err error) {
	if m.verifyTTL, err = duration("VERIFY_LINK_TTL", s.VerifyLinkTTL, time.Minute, 24*time.Hour, "24h"); err != nil {
		return err
	}
	if m.resetTTL, err = duration("RESET_LINK_TTL", s.ResetLinkTTL, time.Minute, time.Hour, "1h"); err != nil {
		return err
	}
	if m.alarmTTL, err = duration("UNDO_LINK_TTL", s.UndoLinkTTL, time.Hour, 7*24*time.Hour, "48h"); err != nil {
		return err
	}
	m.mailCodes, err = duration("MAIL_CODE_TTL", s.MailCodeTTL, time.Minute, 10*time.Minute, "10m")
	return err
}

// flowSettings are the settings of flows with mail.
type flowSettings struct {
	EmailVerification string `env:"EMAIL_VERIFICATION" default:"off" placeholder:"off|optional|required" help:"Whether a registration sends a mail to verify the address by. required: there is no account, and no login, before."`
	MailLogin         string `env:"MAIL_LOGIN" default:"off" placeholder:"on|off" help:"on lets people log in with a code from a mail."`
	NewDeviceNotice   string `env:"NEW_DEVICE_NOTICE" placeholder:"on|off" help:"Tell users of logins with devices that they did not use before. Without one: on, unless EMAIL_VERIFICATION is off."`
	VerifyLinkTTL     string `name:"verify-link-ttl" env:"VERIFY_LINK_TTL" default:"24h" placeholder:"DURATION" help:"How long a link that proves an address is good for, 24h at most."`
	ResetLinkTTL      string `name:"reset-link-ttl" env:"RESET_LINK_TTL" default:"1h" placeholder:"DURATION" help:"How long a link to set another password is good for, 1h at most."`
	UndoLinkTTL       string `name:"undo-link-ttl" env:"UNDO_LINK_TTL" default:"48h" placeholder:"DURATION" help:"How long a link that takes back what others did is good for, from 1h to 168h."`
	MailCodeTTL       string `name:"mail-code-ttl" env:"MAIL_CODE_TTL" default:"10m" placeholder:"DURATION" help:"How long a code from a mail is good for, 10m at most."`
}

// flowConfig contains the checked values of flowSettings.
type flowConfig struct {
	publicURL                                string
	verification                             handlers.Verification
	login, newDevice                         bool
	verifyTTL, resetTTL, alarmTTL, mailCodes time.Duration
}
