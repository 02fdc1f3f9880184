package handlers_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/token"
)

// setting has two values. begin runs on an instance with one of them and returns the test of a later
// instance with the other value.
type setting struct {
	name          string
	lesser, other func(t *testing.T, p *postal)
	begin         func(t *testing.T, p *postal) (judge func(t *testing.T, p *postal))
}

// Rows and tokens keep the expiry that they were given. Rules about the present apply as they are set at
// present. A change of a setting makes no refused token valid again.
func TestSettingsMayChangeBetweenTwoStarts(t *testing.T) {
	t.Parallel()
	for _, s := range settings {
		for direction, order := range map[string][2]func(*testing.T, *postal){"raised": {s.lesser, s.other}, "lowered": {s.other, s.lesser}} {
			t.Run(s.name+"/"+direction, func(t *testing.T) {
				eachPostal(t, handlers.VerificationOptional, func(t *testing.T, former *postal) {
					order[0](t, former)
					judge := s.begin(t, former)
					later := post(t, former.service.another(t), handlers.VerificationOptional)
					order[1](t, later)
					judge(t, later)
				})
			})
		}
	}
}

var settings = []setting{
	{
		name:   "VERIFY_LINK_TTL",
		lesser: func(_ *testing.T, p *postal) { p.sessions.OneTimes.VerifyTTL = time.Hour },
		other:  func(_ *testing.T, p *postal) { p.sessions.OneTimes.VerifyTTL = 10 * time.Hour },
		begin:  linksKeepTheirExpiry,
	},
	{
		name:   "RESET_LINK_TTL",
		lesser: func(_ *testing.T, p *postal) { p.sessions.OneTimes.ResetTTL = time.Hour },
		other:  func(_ *testing.T, p *postal) { p.sessions.OneTimes.ResetTTL = 10 * time.Hour },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			p.verified(t)
			want(t, "forgot", p.forgot(t, ada), nil)
			first := p.one(t, events.MailReset, adas)
			return func(t *testing.T, p *postal) {
				p.advance(first.ExpiresAt.Sub(p.now()) - time.Second)
				want(t, "a second before its end", p.reset(t, linked(t, first, "/password/reset"), staple), nil)
			}
		},
	},
	{
		name:   "MAIL_CODE_TTL",
		lesser: func(_ *testing.T, p *postal) { p.sessions.OneTimes.CodeTTL = time.Minute },
		other:  func(_ *testing.T, p *postal) { p.sessions.OneTimes.CodeTTL = time.Hour },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			p.verified(t)
			_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
			want(t, "ask for a code", err, nil)
			m := p.one(t, events.MailLoginCode, adas)
			return func(t *testing.T, p *postal) {
				p.advance(m.ExpiresAt.Sub(p.now()))
				_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: m.Code})
				want(t, "at its end", err, auth.ErrInvalidCredentials)
			}
		},
	},
	{
		name:   "PUBLIC_URL",
		lesser: func(*testing.T, *postal) {},
		other:  func(_ *testing.T, p *postal) { p.sessions.OneTimes.Base = "https://other.example" },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			p.register(t)
			m := p.one(t, events.MailVerify, adas)
			_, link, _ := strings.Cut(m.Link, "#token=")
			link, _, _ = strings.Cut(link, "&")
			return func(t *testing.T, p *postal) { want(t, "the link", p.verifyLink(t, link), nil) }
		},
	},
	{
		name:   "PASSWORD_MIN_LENGTH",
		lesser: func(_ *testing.T, p *postal) { p.sessions.Passwords.MinLength = 8 },
		other:  func(_ *testing.T, p *postal) { p.sessions.Passwords.MinLength = 60 },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			length := p.sessions.Passwords.MinLength
			p.sessions.Passwords.MinLength = 8 // the account is older than either value
			p.register(t)
			p.sessions.Passwords.MinLength = length
			return func(t *testing.T, p *postal) { p.login(t) }
		},
	},
	{
		name:   "BCRYPT_COST",
		lesser: func(t *testing.T, p *postal) { p.sessions.Passwords.Cost = bcrypt.MinCost },
		other:  func(t *testing.T, p *postal) { p.sessions.Passwords.Cost = bcrypt.MinCost + 1 },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			p.register(t)
			return func(t *testing.T, p *postal) {
				p.login(t)
				stored := p.stored(t)
				if cost, err := bcrypt.Cost([]byte(stored[strings.LastIndex(stored, "$2a$"):])); err != nil || cost != p.sessions.Passwords.Cost {
					t.Errorf("cost %d, %v", cost, err)
				}
			}
		},
	},
	{
		name:   "TOKEN_ISSUER",
		lesser: func(*testing.T, *postal) {},
		other: func(_ *testing.T, p *postal) {
			p.sessions.Issuer = token.Issuer{Name: "https://other.example", Audience: "zyotra"}
		},
		begin: tokensAreRefreshed,
	},
	{
		name:   "TOKEN_AUDIENCE",
		lesser: func(*testing.T, *postal) {},
		other: func(_ *testing.T, p *postal) {
			p.sessions.Issuer = token.Issuer{Name: "https://auth.example", Audience: "other"}
		},
		begin: tokensAreRefreshed,
	},
	{
		name:   "SESSION_MAX_AGE",
		lesser: func(_ *testing.T, p *postal) { p.sessions.MaxAge = time.Hour },
		other:  func(_ *testing.T, p *postal) { p.sessions.MaxAge = 10 * time.Hour },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			tokens, end := p.begun(t), p.now().Add(p.sessions.MaxAge)
			return func(t *testing.T, p *postal) {
				p.advance(end.Sub(p.now()) - time.Second)
				tokens := p.refresh(t, tokens)
				p.advance(time.Second)
				_, err := p.tryRefresh(t, tokens.RefreshToken)
				want(t, "refresh at the end", err, auth.ErrTokenExpired)
				want(t, "verify at the end", p.verify(t, tokens.AccessToken), auth.ErrTokenExpired)
			}
		},
	},
	{
		name:   "ACCESS_TOKEN_TTL",
		lesser: func(t *testing.T, p *postal) { p.lifetime(t, time.Minute) },
		other:  func(t *testing.T, p *postal) { p.lifetime(t, time.Hour) },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			live, ended, other := p.begun(t), p.login(t).Tokens, p.login(t).Tokens
			want(t, "logout", p.logout(t, ended.AccessToken, ""), nil)
			expires := time.Unix(read(t, live.AccessToken).Exp, 0)
			return func(t *testing.T, p *postal) {
				want(t, "logout", p.logout(t, "", other.RefreshToken), nil)
				if until := p.revokedUntil(t, other.SessionID); until.Before(expires) {
					t.Errorf("the event of the revocation says %s, but a token lives until %s", until, expires)
				}
				p.advance(expires.Sub(p.now()) - time.Second)
				want(t, "a second before its end", p.verify(t, live.AccessToken), nil)
				want(t, "of a session that has ended", p.verify(t, ended.AccessToken), auth.ErrTokenRevoked)
				p.advance(time.Second)
				want(t, "at its end", p.verify(t, live.AccessToken), auth.ErrTokenExpired)
			}
		},
	},
	{
		name:   "REFRESH_TOKEN_TTL",
		lesser: func(_ *testing.T, p *postal) { p.sessions.IdleTTL = grace / 2 },
		other:  func(_ *testing.T, p *postal) { p.sessions.IdleTTL = time.Hour },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			first := p.begun(t)
			return func(t *testing.T, p *postal) {
				second := p.refresh(t, first)
				p.advance(p.sessions.IdleTTL)
				_, err := p.tryRefresh(t, second.RefreshToken)
				want(t, "the current token, idle for as long as is allowed now", err, auth.ErrTokenExpired)
				_, err = p.tryRefresh(t, first.RefreshToken)
				want(t, "its predecessor, which may live longer", err, auth.ErrTokenExpired)
			}
		},
	},
	{
		name:   "REFRESH_GRACE",
		lesser: func(_ *testing.T, p *postal) { p.sessions.Grace = 0 },
		other:  func(_ *testing.T, p *postal) { p.sessions.Grace = time.Minute },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			spent := p.begun(t)
			p.refresh(t, spent)
			p.advance(time.Second)
			return func(t *testing.T, p *postal) {
				_, err := p.tryRefresh(t, spent.RefreshToken)
				if p.sessions.Grace > 0 {
					want(t, "a spent token within the grace of now", err, nil)
					return
				}
				want(t, "a spent token without grace", err, auth.ErrTokenRevoked)
			}
		},
	},
	{
		name:   "SESSION_LIMIT",
		lesser: func(_ *testing.T, p *postal) { p.sessions.Limit = 2 },
		other:  func(_ *testing.T, p *postal) { p.sessions.Limit = 4 },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			p.register(t)
			for range 4 {
				p.login(t)
				p.advance(time.Second)
			}
			return func(t *testing.T, p *postal) {
				before := p.live(t)
				p.login(t)
				if n := p.live(t); n > p.sessions.Limit || n > before+1 || n < min(before+1, p.sessions.Limit) {
					t.Errorf("%d live sessions of at most %d, %d before", n, p.sessions.Limit, before)
				}
			}
		},
	},
	{
		name:   "LIMIT_LOGIN",
		lesser: func(t *testing.T, p *postal) { p.allow(t, 2, time.Minute) },
		other:  func(t *testing.T, p *postal) { p.allow(t, 10, time.Hour) },
		begin: func(t *testing.T, p *postal) func(*testing.T, *postal) {
			p.register(t)
			for blocked := false; !blocked; {
				_, err := p.logIn(t, ada, staple, "")
				blocked = auth.Public(err).Code == auth.CodeRateLimited
			}
			return func(t *testing.T, p *postal) {
				_, _ = p.logIn(t, ada, staple, "")
				p.advance(p.sessions.Limits.Login[0].Interval) // from then on, whatever the interval was before
				_, err := p.logIn(t, ada, horse, "")
				want(t, "the right password after an interval of now", err, nil)
			}
		},
	},
}

func linksKeepTheirExpiry(t *testing.T, p *postal) func(*testing.T, *postal) {
	p.register(t)
	m := p.one(t, events.MailVerify, adas)
	return func(t *testing.T, p *postal) {
		p.advance(m.ExpiresAt.Sub(p.now()) - time.Second)
		want(t, "a second before its end", p.verifyLink(t, linked(t, m, "/email/verify")), nil)
	}
}

// tokensAreRefreshed tests that the access tokens of before are refused and the sessions go on.
func tokensAreRefreshed(t *testing.T, p *postal) func(*testing.T, *postal) {
	tokens := p.begun(t)
	return func(t *testing.T, p *postal) {
		want(t, "the token of before", p.verify(t, tokens.AccessToken), auth.ErrInvalidToken)
		want(t, "the next token", p.verify(t, p.refresh(t, tokens).AccessToken), nil)
	}
}

// allow sets how many wrong passwords of an account in a row are let through, and how often after that.
func (p *postal) allow(t *testing.T, burst int, interval time.Duration) {
	p.limit(t, ratelimit.Policy{Login: []gcra.Limit{{Burst: burst, Interval: interval}}})
}

// lifetime is as the program sets it: noted before the first token.
func (p *postal) lifetime(t *testing.T, d time.Duration) {
	t.Helper()
	p.keys = &keyring.Keys{Store: p.store, Master: parse(t, p.master), AccessTTL: d, Clock: p.now}
	want(t, "note the lifetime", p.keys.Load(t.Context()), nil)
	p.sessions.Keys, p.sessions.AccessTTL = p.keys, d
}

// revokedUntil is up to when the event of a session's end says that tokens of it live.
func (p *postal) revokedUntil(t *testing.T, session string) time.Time {
	t.Helper()
	var rows []string
	if err := p.store.DB().NewRaw("SELECT data FROM outbox WHERE type = 'session.revoked' ORDER BY seq").Scan(t.Context(), &rows); err != nil {
		t.Fatal(err)
	}
	for _, text := range rows {
		var data events.SessionRevoked
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			t.Fatal(err)
		}
		if data.SessionID == session {
			return data.ExpiresAt
		}
	}
	t.Fatalf("no event says that %s has ended", session)
	return time.Time{}
}

// live counts the live sessions of all users.
func (p *postal) live(t *testing.T) int {
	t.Helper()
	n, err := p.store.DB().NewSelect().Table("login_sessions").Where("revoked_at IS NULL").Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}
