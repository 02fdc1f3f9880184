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

// Notices tells owners by mail what happened to their account, with a link to say that it was
// not them. A nil one tells nothing.
type Notices struct {
	OneTimes  *OneTimeTokens
	NewDevice bool // tell of logins with devices that were not seen before
	Limits    *ratelimit.Limiter
}

// passwordChanged is part of a change of the password.
func (n *Notices) passwordChanged(ctx context.Context, tx *persistence.Store, user auth.User, from auth.ClientInfo) error {
	if n == nil {
		return nil
	}
	return n.send(ctx, tx, noticeOfChange, events.MailPasswordChanged, user, from)
}

// login is part of a login. The first device of an account is no news.
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

// send asks for a notice, unless there were too many of its kind: an intruder must not be able to
// bury the owner's mailbox.
func (n *Notices) send(ctx context.Context, tx *persistence.Store, counter string, kind events.MailKind, user auth.User, from auth.ClientInfo) error {
	ok, err := n.Limits.ReserveNotice(ctx, tx, counter, user.Email)
	if err != nil || !ok {
		return err
	}
	return n.OneTimes.send(ctx, tx, mailRequest{kind: kind, purpose: purposeNotMe, to: owner(user), client: from})
}

// deviceKind is what makes a device a new one: not its versions, which change from week to week.
func deviceKind(agent string) string {
	ua := useragent.Parse(agent)
	return strings.TrimSpace(ua.Name + " on " + ua.OS)
}
