package handlers

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// Values of the method attribute in the log: how the caller authenticates or requests a credential.
const (
	byPassword     = amrPassword
	byCode         = amrCode // of a mail
	byLink         = "link"  // of a mail
	byMail         = "mail"  // a request for a mail
	byAccessToken  = "access_token"
	byRefreshToken = "refresh_token"
	byOperator     = "operator" // authenticated by the bus only
)

// auditEvent describes an authentication request for the log: a login, a logout, a request that takes
// a password, code or link, or an operator's change of a user.
type auditEvent struct {
	subject string // of the request
	method  string
	user    auth.UserID // that the request is about; 0 until it is known
	address string      // from the request; logged while user is 0
	client  *auth.ClientInfo
}

// presents records the user and address of a link or code.
func (a *auditEvent) presents(one persistence.OneTime) { a.user, a.address = one.UserID, one.Email }

// auditMessage is the message of every audit record.
const auditMessage = "authentication"

// audited runs fn and logs one record with its outcome, also if fn panics. fn adds to the event the
// user that it identifies. Requests over HTTP and over the bus both run through audited. A nil log
// logs nothing.
func audited[Req, Resp any](ctx context.Context, log *slog.Logger, a auditEvent, req Req, fn func(context.Context, Req, *auditEvent) (Resp, error)) (resp Resp, err error) {
	err = auth.ErrInternal // if fn panics
	defer func() { a.log(ctx, log, err) }()
	resp, err = fn(ctx, req, &a)
	return resp, err
}

func (a *auditEvent) log(ctx context.Context, log *slog.Logger, err error) {
	level, outcome, reason := classify(err)
	if log == nil || !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 6)
	attrs = append(attrs, slog.String("subject", a.subject), slog.String("outcome", outcome))
	if reason != "" {
		attrs = append(attrs, slog.String("reason", reason))
	}
	attrs = append(attrs, slog.String("method", a.method))
	switch {
	case a.user != 0:
		attrs = append(attrs, slog.Int64("userId", int64(a.user)))
	case a.address != "":
		attrs = append(attrs, slog.String("email", masked(a.address)))
	}
	if ip := addressOf(a.client); ip != "" {
		attrs = append(attrs, slog.String("ip", ip))
	}
	log.LogAttrs(ctx, level, auditMessage, attrs...)
}

// classify returns the level, outcome and reason that the log records for an error. An internal or
// unavailable error has the outcome failed; the code that sends the reply logs its cause.
func classify(err error) (level slog.Level, outcome, reason string) {
	if err == nil {
		return slog.LevelInfo, "success", ""
	}
	code := auth.Public(err).Code
	switch code {
	case auth.CodeInternal, auth.CodeUnavailable:
		return slog.LevelInfo, "failed", string(code)
	}
	reason = reasonOf(err)
	if reason == reasonTokenReuse {
		return slog.LevelWarn, "refused", reason
	}
	return slog.LevelInfo, "refused", reason
}

// Reasons of refusals that appear in the log but not in the reply.
const (
	reasonUnknown       = "unknown_address"
	reasonWrongPassword = "wrong_password"
	reasonDisabled      = "user_disabled"
	reasonUnverified    = "address_not_verified"
	reasonMoved         = "password_changed_meanwhile"
	reasonTokenReuse    = string(auth.ReasonTokenReuse)
	reasonCarrier       = "other_carrier"
	reasonUncertain     = "clock_uncertain"
)

// refusal is an error whose reason appears in the log only.
type refusal struct {
	public *auth.Error
	reason string
}

func (r *refusal) Error() string { return r.public.Message + " (" + r.reason + ")" }
func (r *refusal) Unwrap() error { return r.public }

// reasonOf returns why a request is refused: the reason of a refusal, or else the error's code.
func reasonOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason
	}
	return string(auth.Public(err).Code)
}

// addressOf returns the IP address that a request names as its source, or "" if it is not a valid address.
func addressOf(c *auth.ClientInfo) string {
	if c == nil {
		return ""
	}
	ip, err := netip.ParseAddr(c.IP)
	if err != nil {
		return ""
	}
	return ip.Unmap().WithZone("").String()
}

// maxTopLevel is the longest top-level domain that masked shows, in bytes. Longer ones are rare, and
// other text in the wrong field may be longer.
const maxTopLevel = 12

// masked returns the form of a typed address that may be logged, such as a***@e***.com: enough to
// recognise an address in an inquiry. Of text without an "@", such as a password in the wrong field,
// it shows the first character. The result has at most 32 bytes, and only letters, digits, "*", "@"
// and ".".
func masked(address string) string {
	local, domain, isAddress := strings.Cut(address, "@")
	if !isAddress {
		return first(local) + "***"
	}
	text := first(local) + "***@" + first(domain) + "***"
	dot := strings.LastIndexByte(domain, '.')
	if dot < 0 {
		return text
	}
	top := domain[dot+1:]
	if len(top) > maxTopLevel || strings.ContainsFunc(top, func(r rune) bool { return !('a' <= r|0x20 && r|0x20 <= 'z') }) {
		return text
	}
	return text + "." + top
}

// first returns the first character of a text if it is a letter or a digit, otherwise "".
func first(text string) string {
	r, size := utf8.DecodeRuneInString(text)
	if r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
		return ""
	}
	return text[:size]
}
