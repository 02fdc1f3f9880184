package main

import (
	"fmt"
	"time"

	"github.com/zyotra/auth/handlers"
)

// checkFlows reads what mail is for; nil if there is none, which nothing may need then.
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
