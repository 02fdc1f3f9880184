package http

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
)

// The cookies of a session. The prefix makes browsers take them over TLS (or from localhost)
// alone, for this very host and the whole of it (RFC 6265bis §4.1.3.2).
const (
	accessCookie  = "__Host-access"
	refreshCookie = "__Host-refresh"
	// registrationCookie keeps the secret of a registration in the browser that made it, as long as
	// the link of its mail is good. It is Lax, so that the page of the link knows of it.
	registrationCookie = "__Host-registration"
)

// credential finds the access token of a request: in the header Authorization, in the access
// cookie, or, as the service's ancestor read it, in the member token of a POST's body, which
// is then taken out of it. Two of them are an error, and a cookie counts for a change only if
// a page of ours sent it. "" means that there is none.
func (e *Edge) credential(c *fiber.Ctx, body []byte) (token string, rest []byte, err error) {
	var member string
	if body != nil && c.Method() == fiber.MethodPost {
		if body, err = strictjson.Take(body, "token", &member); err != nil {
			return "", nil, err
		}
	}
	token, isCookie, err := one(c, member)
	if err != nil {
		return "", nil, err
	}
	if isCookie && !isSafe(c.Method()) {
		if err := e.proveOrigin(c); err != nil {
			return "", nil, err
		}
	}
	return token, body, nil
}

// forwarded is credential for a gateway that asks about a request of its own. The method
// that counts is that request's, in X-Forwarded-Method.
func (e *Edge) forwarded(c *fiber.Ctx) (string, error) {
	token, isCookie, err := one(c, "")
	if err != nil {
		return "", err
	}
	if isCookie && !isSafe(c.Get("X-Forwarded-Method", fiber.MethodGet)) {
		if err := e.proveOrigin(c); err != nil {
			return "", err
		}
	}
	return token, nil
}

// one returns the one access token of a request, whose body may have had one too.
func one(c *fiber.Ctx, member string) (token string, isCookie bool, err error) {
	header, err := authorization(c)
	if err != nil {
		return "", false, err
	}
	cookie, err := readCookie(c, accessCookie)
	if err != nil {
		return "", false, err
	}
	given := slices.DeleteFunc([]string{header, cookie, member}, func(s string) bool { return s == "" })
	switch len(given) {
	case 0:
		return "", false, nil
	case 1:
		return given[0], cookie != "", nil
	}
	return "", false, auth.ErrTwoCredentials
}

// authorization is auth.BearerToken of the request.
func authorization(c *fiber.Ctx) (string, error) {
	var headers []string
	for _, h := range c.Request().Header.PeekAll(fiber.HeaderAuthorization) {
		headers = append(headers, string(h))
	}
	return auth.BearerToken(headers)
}

// readCookie returns the value of a cookie, "" if there is none. Two of one name are two
// credentials.
func readCookie(c *fiber.Ctx, name string) (value string, err error) {
	for key, v := range c.Request().Header.Cookies() {
		if string(key) != name {
			continue
		}
		if value != "" {
			return "", auth.ErrTwoCredentials
		}
		value = string(v)
	}
	return value, nil
}

// inCookies is what an answer says of tokens that are in cookies.
type inCookies struct {
	TokenType string `json:"tokenType"`
	ExpiresIn int64  `json:"expiresIn"`
	SessionID string `json:"sessionId"`
}

// setCookies hands tokens to a browser. Scripts do not see them. The access cookie comes
// along when a person follows a link to a page behind a gateway (Lax), the refresh cookie
// never from another site (Strict).
func setCookies(c *fiber.Ctx, tokens auth.Tokens) (inCookies, error) {
	claims, err := readUnverified(tokens.RefreshToken)
	if err != nil {
		return inCookies{}, fmt.Errorf("refresh token: %w", err)
	}
	setCookie(c, accessCookie, tokens.AccessToken, tokens.ExpiresIn, fiber.CookieSameSiteLaxMode)
	setCookie(c, refreshCookie, tokens.RefreshToken, int64(time.Until(time.Unix(claims.Exp, 0))/time.Second), fiber.CookieSameSiteStrictMode)
	return inCookies{TokenType: tokens.TokenType, ExpiresIn: tokens.ExpiresIn, SessionID: tokens.SessionID}, nil
}

func clearCookies(c *fiber.Ctx) {
	clearCookie(c, accessCookie)
	setCookie(c, refreshCookie, "", -1, fiber.CookieSameSiteStrictMode)
}

func clearCookie(c *fiber.Ctx, name string) { setCookie(c, name, "", -1, fiber.CookieSameSiteLaxMode) }

// registration returns the secret of the registration that the browser made, or "". The cookie
// counts only if a page of ours sent the request.
func (e *Edge) registration(c *fiber.Ctx) (string, error) {
	secret, err := readCookie(c, registrationCookie)
	if err != nil || secret == "" || e.proveOrigin(c) != nil {
		return "", err
	}
	return secret, nil
}

func setCookie(c *fiber.Ctx, name, value string, seconds int64, sameSite string) {
	cookie := &fiber.Cookie{Name: name, Value: value, Path: "/", Secure: true, HTTPOnly: true, SameSite: sameSite, MaxAge: int(seconds)}
	if seconds <= 0 {
		cookie.MaxAge, cookie.Expires = 0, time.Unix(1, 0) // the way that every browser understands as "delete"
	}
	c.Cookie(cookie)
}

// unverified are claims of a token that the service has just made or taken. The edge has no
// key to check them with and no need to: it knows by them how long to keep a cookie, and
// which session it has helped to end.
type unverified struct {
	Exp int64
	Sid string
}

func readUnverified(token string) (claims unverified, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return unverified{}, fmt.Errorf("token has %d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return unverified{}, fmt.Errorf("token: %w", err)
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return unverified{}, fmt.Errorf("token: %w", err)
	}
	return claims, nil
}

// refuse refuses a session that was ended through this edge from now on, before the news
// has come round. No access token lives longer than a day.
func (e *Edge) refuse(sessionID string) {
	e.Verifier.Refuse(sessionID, time.Now().Add(24*time.Hour))
}
