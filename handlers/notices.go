package handlers

import (
	"context"
	"strings"

	"github.com/mileusna/useragent"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/persistence"
)

// Notices notifies owners by mail of changes and logins of their account, with a link to report that
// they did not make them. A nil Notices sends nothing.
type Notices struct {
	OneTimes  *OneTimeTokens
	NewDevice bool // send notices of logins with new devices
	Limits    *ratelimit.Limiter
}

// passwordChanged sends the notice of a change of the password, in its transaction.
func (n *Notices) passwordChanged(ctx context.Context, tx *persistence.Store, user auth.User, from auth.ClientInfo) error {
	if n == nil {
		return nil
	}
	return n.send(ctx, tx, noticeOfChange, events.MailPasswordChanged, user, from)
}

// login sends the notice of a login with a new device, in the transaction of the login. It sends none
// for the first device of an account.
func (n *Notices) login(ctx context.Context, tx *persistence.Store, session persistence.Session) error {
	if n == nil || !n.NewDevice {
		return nil
	}
	isNews, err := tx.KnowDevice(ctx, session.UserID, deviceKind(session.Created.UserAgent), session.CreatedAt)
	if err != nil || !isNews {
		return err
	}
	user, err := tx.User(ctx, session.UserID)
	if err != nil {
		return err
	}
	return n.send(ctx, tx, noticeOfLogin, events.MailNewDevice, user, session.Created)
}

// The counters of notices. Logins must not use up the notices of changes.
const (
	noticeOfLogin  = "notice"
	noticeOfChange = "notice of change" // of the password
)

// send requests a notice unless its counter has reached the limit: an intruder must not be able to
// flood the owner's mailbox.
func (n *Notices) send(ctx context.Context, tx *persistence.Store, counter string, kind events.MailKind, user auth.User, from auth.ClientInfo) error {
	ok, err := n.Limits.ReserveNotice(ctx, tx, counter, user.Email)
	if err != nil || !ok {
		return err
	}
	return n.OneTimes.send(ctx, tx, mailRequest{kind: kind, purpose: purposeNotMe, to: owner(user), client: from})
}

// deviceKind returns the part of a user agent that identifies a device: the names of browser and system,
// without versions, which change from week to week.
func deviceKind(agent string) string {
	ua := useragent.Parse(agent)
	return strings.TrimSpace(ua.Name + " on " + ua.OS)
}
