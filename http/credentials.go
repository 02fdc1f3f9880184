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

// credentials are what a request authenticates with, each "" if the request has none.
type credentials struct {
	header       string // the token of "Authorization: Bearer"; another scheme is no credential here
	access       string // the access cookie
	refresh      string // the refresh cookie
	registration string // the registration cookie
}

// readCredentials is the only code that looks for credentials in the headers of a request. It returns
// auth.ErrTwoCredentials if one of them is there twice, and auth.ErrInvalidToken for a bearer
// accessToken that is malformed.
// What could be read is returned with the error.
func readCredentials(c *fiber.Ctx) (k credentials, err error) {
	k.header, err = authorization(c)
	for key, v := range c.Request().Header.Cookies() {
		var value *string
		switch string(key) {
		case accessCookie:
			value = &k.access
		case refreshCookie:
			value = &k.refresh
		case registrationCookie:
			value = &k.registration
		default:
			continue
		}
		if *value != "" {
			err = auth.ErrTwoCredentials
			continue
		}
		*value = string(v)
	}
	return k, err
}

// authorization is auth.BearerToken of the request.
func authorization(c *fiber.Ctx) (string, error) {
	var headers []string
	for _, h := range c.Request().Header.PeekAll(fiber.HeaderAuthorization) {
		headers = append(headers, string(h))
	}
	return auth.BearerToken(headers)
}

// accessToken returns the one access token of a request, whose body may have had one too, "" if there
// is none. It returns auth.ErrTwoCredentials if there are more.
func (k credentials) accessToken(member string) (token string, isCookie bool, err error) {
	given := slices.DeleteFunc([]string{k.header, k.access, member}, func(s string) bool { return s == "" })
	switch len(given) {
	case 0:
		return "", false, nil
	case 1:
		return given[0], k.access != "", nil
	}
	return "", false, auth.ErrTwoCredentials
}

// accessToken finds the access token of a request: in the header Authorization, in the access
// cookie, or, as the service's ancestor read it, in the member token of a POST's body, which
// is then taken out of it. Two of them are an error, and a cookie counts for a change only if
// a page of ours sent it. "" means that there is none.
func (e *Edge) accessToken(c *fiber.Ctx, body []byte) (token string, rest []byte, err error) {
	var member string
	if body != nil && c.Method() == fiber.MethodPost {
		if body, err = strictjson.Take(body, "token", &member); err != nil {
			return "", nil, err
		}
	}
	given, err := readCredentials(c)
	if err != nil {
		return "", nil, err
	}
	token, isCookie, err := given.accessToken(member)
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

// verifyPath is where gateways ask.
const verifyPath = "/verify"

// gatewayCredential is credential for a gateway that asks about a request of its client. What is wrong with
// the client's credentials is an auth.ErrInvalidToken: gateways answer 500 for what is not 401 or 403.
func (e *Edge) gatewayCredential(c *fiber.Ctx) (string, error) {
	given, err := readCredentials(c)
	if err != nil {
		return "", refusedCredential(err)
	}
	token, isCookie, err := given.accessToken("")
	if err != nil {
		return "", refusedCredential(err)
	}
	if isCookie && !isSafeForwarded(c) {
		if err := e.proveOrigin(c); err != nil {
			return "", err
		}
	}
	return token, nil
}

func refusedCredential(err error) error { return fmt.Errorf("%w: %w", auth.ErrInvalidToken, err) }

// isSafeForwarded reports whether the gateway's client changes nothing: neither by the method that the
// gateway asks with, if it keeps its client's, nor by that of X-Forwarded-Method.
func isSafeForwarded(c *fiber.Ctx) bool {
	if method, ok := c.Context().UserValue(askedMethod{}).(string); ok && !isSafe(method) {
		return false
	}
	for _, method := range c.Request().Header.PeekAll("X-Forwarded-Method") {
		if len(method) > 0 && !isSafe(string(method)) {
			return false
		}
	}
	return true
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
	given, err := readCredentials(c)
	if err != nil || given.registration == "" || e.proveOrigin(c) != nil {
		return "", err
	}
	return given.registration, nil
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
	e.Verifier.Revoke(sessionID, time.Now().Add(24*time.Hour))
}
