package handlers

import (
	"context"
	"errors"
	"log/slog"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/persistence"
)

// amrCode is the authentication method reference of a login by a code from a mail (RFC 8176 §2).
const amrCode = "otp"

// CodeLogins logs in users by a code that it mails to their address. Accounts and Sessions are
// required, and OneTimes if it is On.
type CodeLogins struct {
	On       bool // otherwise Login returns auth.ErrNotFound
	OneTimes *OneTimeTokens
	Accounts *Accounts
	Sessions *Sessions
	Limits   *ratelimit.Limiter
	Log      *slog.Logger // of outcomes; nil logs none
	Clock    clock.Func
}

// Login answers auth.login.code: without a code in the request it sends one, with the same reply for
// every address; with a code it begins a session. It returns auth.ErrInvalidCredentials for every
// wrong address or code, and auth.ErrRateLimited after too many attempts.
func (c *CodeLogins) Login(ctx context.Context, req auth.LoginCodeRequest) (auth.LoginCodeReply, error) {
	a := auditEvent{subject: string(auth.LoginCode), method: byCode, address: req.Email, client: req.Client}
	if req.Code == "" {
		a.method = byMail
	}
	return audited(ctx, c.Log, a, req, c.login)
}

func (c *CodeLogins) login(ctx context.Context, req auth.LoginCodeRequest, a *auditEvent) (auth.LoginCodeReply, error) {
	if !c.On {
		return auth.LoginCodeReply{}, auth.ErrNotFound
	}
	if req.Code == "" {
		return c.send(ctx, req)
	}
	from, err := origin(req.Client, req.Carrier)
	if err != nil {
		return auth.LoginCodeReply{}, err
	}
	attempt, err := c.Limits.ReserveCode(ctx, req.Email, from.client)
	if err != nil {
		return auth.LoginCodeReply{}, err
	}
	session, err := c.begin(ctx, req, from, attempt, a)
	if errors.Is(err, auth.ErrInvalidToken) {
		err = auth.ErrInvalidCredentials
	}
	if err != nil {
		return auth.LoginCodeReply{}, err
	}
	tokens, err := c.Sessions.tokens(session, session.CreatedAt)
	if err != nil {
		return auth.LoginCodeReply{}, err
	}
	return auth.LoginCodeReply{
		Message: loggedIn, UserID: session.UserID, AccessToken: tokens.AccessToken, RefreshToken: tokens.RefreshToken,
		TokenType: tokens.TokenType, ExpiresIn: tokens.ExpiresIn, SessionID: tokens.SessionID,
	}, nil
}

func (c *CodeLogins) send(ctx context.Context, req auth.LoginCodeRequest) (auth.LoginCodeReply, error) {
	if req.Carrier != "" { // a request to send a code has no carrier
		return auth.LoginCodeReply{}, auth.ErrInvalid.With(auth.Field{Field: "code", Reason: reasonRequired})
	}
	from, err := c.OneTimes.reserveMail(ctx, c.Limits, req.Email, req.Client)
	if err != nil {
		return auth.LoginCodeReply{}, err
	}
	if err := c.OneTimes.sendIfReached(ctx, req.Email, mailRequest{kind: events.MailLoginCode, purpose: purposeLogin, client: from}); err != nil {
		return auth.LoginCodeReply{}, err
	}
	return auth.LoginCodeReply{Message: mailSent}, nil
}

// begin redeems a code and stores a new session.
func (c *CodeLogins) begin(ctx context.Context, req auth.LoginCodeRequest, from source, attempt *ratelimit.Reservation, a *auditEvent) (session persistence.Session, err error) {
	one, err := c.OneTimes.findCode(ctx, purposeLogin, email.ParseOrZero(req.Email), req.Code)
	if err != nil {
		return persistence.Session{}, err
	}
	a.presents(one)
	session = c.Sessions.next(one.UserID, amrCode, from)
	err = c.OneTimes.take(ctx, one, func(ctx context.Context, tx *persistence.Store, user auth.User) error {
		if err := c.proved(ctx, tx, user, req.Registration); err != nil {
			return err
		}
		if err := c.Sessions.create(ctx, tx, session); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
	return session, err
}

// proved verifies an unverified address of an account. The account keeps its password, name and
// locale only if the caller made its registration; otherwise a stranger may have made it.
func (c *CodeLogins) proved(ctx context.Context, tx *persistence.Store, user auth.User, secret string) error {
	if user.EmailVerified {
		return nil
	}
	var own ownership
	registered, ok, err := c.OneTimes.registration(ctx, tx, email.ParseOrZero(user.Email).Key, secret)
	if err != nil {
		return err
	}
	if ok {
		own.registered(registered)
	}
	if own.keeps {
		return c.Sessions.takeOver(ctx, tx, user, "", auth.ReasonEmailChanged)
	}
	return c.Accounts.startFree(ctx, tx, user, own.payload, auth.ReasonEmailChanged)
}
