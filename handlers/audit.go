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

// How somebody says who they are, or asks to be let say so: what the log calls the method.
const (
	byPassword     = amrPassword
	byCode         = amrCode // from a mail
	byLink         = "link"  // of a mail
	byMail         = "mail"  // that is asked for
	byAccessToken  = "access_token"
	byRefreshToken = "refresh_token"
	byOperator     = "operator" // who is known to the bus alone
)

// auditEvent is what the log tells of a request that has to do with who somebody is: logging in and
// out, whatever asks for a password, code or link, and what operators do to people.
type auditEvent struct {
	subject string // that was asked
	method  string
	user    auth.UserID // whom it is about; 0 as long as that is not known
	address string      // that was given, for those who are not known
	client  *auth.ClientInfo
}

// presents notes whom a link or a code is about.
func (a *auditEvent) presents(one persistence.OneTime) { a.user, a.address = one.UserID, one.Email }

// auditMessage is the message of the record that each attempt has.
const auditMessage = "authentication"

// audited runs fn, which notes in the attempt what it learns, and logs what became of it: one
// record, whatever happens. Both doors lead through here. A nil log tells nothing.
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

// classify is how the log tells of an error. What is not the caller's fault is failed, and why is
// told where the request is answered.
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

// Reasons of refusals that the caller is not told.
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

// refusal is an error whose reason only the log tells.
type refusal struct {
	public *auth.Error
	reason string
}

func (r *refusal) Error() string { return r.public.Message + " (" + r.reason + ")" }
func (r *refusal) Unwrap() error { return r.public }

// reasonOf is why a request is refused: what only the log tells, or else the code.
func reasonOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason
	}
	return string(auth.Public(err).Code)
}

// addressOf is where a request says that it comes from, "" for what is no address.
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

// maxTopLevel is the longest top-level domain that is shown; longer ones are rare, and what is
// typed into the wrong field may be longer.
const maxTopLevel = 12

// masked is what a log may tell of an address that was typed, as in a***@e***.com: enough to
// recognise one that is asked about. What is no address, such as a password in the wrong field, is
// its first character. It has at most 32 bytes and nothing but letters, digits, "*", "@" and ".".
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

// first is the first character of a text if it is a letter or a digit.
func first(text string) string {
	r, size := utf8.DecodeRuneInString(text)
	if r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
		return ""
	}
	return text[:size]
}
