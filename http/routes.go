package http

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/requestid"
	"github.com/zyotra/auth/internal/strictjson"
)

// bearer and origin are what requests of the root package embed.
type (
	bearer interface{ Credential() *string }
	origin interface{ From() **auth.ClientInfo }
)

// forward answers a route by asking op.
func forward[Req, Resp any](e *Edge, op auth.Op[Req, Resp], status int) fiber.Handler {
	return func(c *fiber.Ctx) error {
		var req Req
		if err := e.read(c, &req); err != nil {
			return err
		}
		resp, err := ask(e, c, op, req)
		if err != nil {
			return err
		}
		if status == fiber.StatusNoContent {
			return c.SendStatus(status)
		}
		return c.Status(status).JSON(resp)
	}
}

// ask is bus.Call, with the patience for op. Fiber's own context never ends.
func ask[Req, Resp any](e *Edge, c *fiber.Ctx, op auth.Op[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(e.context(c), patience(string(op)))
	defer cancel()
	return bus.Call(ctx, e.conn, op, req)
}

// patience is how long an answer is waited for. It never comes if whoever was asked has died, so
// it is short where nobody waits for a turn to hash a password. That of a refresh is well within
// REFRESH_GRACE, so that the same token is still good for the caller's retry.
func patience(subject string) time.Duration {
	switch subject {
	case string(auth.Register), string(auth.Login), string(auth.AccountDelete), string(auth.PasswordChange),
		string(auth.PasswordReset), string(auth.EmailChange), string(auth.EmailConfirm), string(auth.EmailVerify):
		return bus.Timeout
	}
	return 5 * time.Second
}

// read fills a request from the body, the credential and the connection.
func (e *Edge) read(c *fiber.Ctx, req any) error {
	body, err := readBody(c, req)
	if err != nil {
		return err
	}
	b, isBearer := req.(bearer)
	if isBearer {
		if *b.Credential(), body, err = e.credential(c, body); err != nil {
			return err
		}
	}
	return e.fill(c, body, req)
}

// fill fills a request from a body, if there is one, and from the connection.
func (e *Edge) fill(c *fiber.Ctx, body []byte, req any) error {
	if body != nil {
		if err := strictjson.Unmarshal(body, req); err != nil {
			return err
		}
	}
	if o, ok := req.(origin); ok {
		if *o.From() != nil { // a member of the bus alone: here the edge knows better
			return notHere("client")
		}
		*o.From() = &auth.ClientInfo{IP: e.address(c), UserAgent: c.Get(fiber.HeaderUserAgent)}
	}
	return nil
}

// notHere refuses a member that the bus has and HTTP has not.
func notHere(member string) error {
	return auth.ErrMalformed.With(auth.Field{Field: member, Reason: strictjson.ReasonUnknown})
}

// readBody returns the JSON of a request that changes something, nil of any other. A body
// may be absent where a token can take its place.
func readBody(c *fiber.Ctx, req any) ([]byte, error) {
	if isSafe(c.Method()) {
		return nil, nil
	}
	_, isBearer := req.(bearer)
	body := c.Request().Body() // as it was sent: Fiber's Body would expand it
	if len(body) == 0 && (isBearer || len(c.Request().Header.Cookie(refreshCookie)) > 0) {
		return nil, nil
	}
	if !isJSON(c.Get(fiber.HeaderContentType)) {
		return nil, auth.ErrUnsupportedMedia
	}
	return body, nil
}

// isSafe tells whether a method changes nothing (RFC 9110 §9.2.1).
func isSafe(method string) bool {
	switch method {
	case fiber.MethodGet, fiber.MethodHead, fiber.MethodOptions, fiber.MethodTrace:
		return true
	}
	return false
}

// isJSON takes application/json, in UTF-8 if it names a charset (RFC 8259 §8.1, §11).
func isJSON(contentType string) bool {
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil || kind != fiber.MIMEApplicationJSON {
		return false
	}
	charset, named := parameters["charset"]
	return !named || strings.EqualFold(charset, "utf-8")
}

// register is forward. The status tells of an account, or of a mail that has to be answered first.
// The secret of the registration goes into a cookie: scripts have no use for it.
func (e *Edge) register(c *fiber.Ctx) error {
	var req auth.RegisterRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	reply, err := ask(e, c, auth.Register, req)
	if err != nil {
		return err
	}
	if reply.Registration != nil {
		setCookie(c, registrationCookie, reply.Registration.Secret, reply.Registration.ExpiresIn, fiber.CookieSameSiteLaxMode)
		reply.Registration = nil
	}
	if reply.UserID == 0 {
		return c.Status(fiber.StatusAccepted).JSON(reply)
	}
	return c.Status(fiber.StatusCreated).JSON(reply)
}

// readMailed is read for a request whose member token belongs to a mail. The access token is in a
// header or a cookie then.
func (e *Edge) readMailed(c *fiber.Ctx, req bearer) error {
	body, err := readBody(c, req)
	if err != nil {
		return err
	}
	access, _, err := e.credential(c, nil)
	if err != nil {
		return err
	}
	if err := e.fill(c, body, req); err != nil {
		return err
	}
	*req.Credential() = access
	return nil
}

// confirmEmail is forward with the session that a browser may have.
func (e *Edge) confirmEmail(c *fiber.Ctx) error {
	var req auth.EmailConfirmRequest
	if err := e.readMailed(c, &req); err != nil {
		return err
	}
	if _, err := ask(e, c, auth.EmailConfirm, req); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// verifyEmail is forward with the cookies that a browser may have: of a session, and of a
// registration.
func (e *Edge) verifyEmail(c *fiber.Ctx) error {
	var req auth.EmailVerifyRequest
	if err := e.readMailed(c, &req); err != nil {
		return err
	}
	if req.Registration != "" {
		return notHere("registration")
	}
	var err error
	if req.Registration, err = e.registration(c); err != nil {
		return err
	}
	if _, err := ask(e, c, auth.EmailVerify, req); err != nil {
		return err
	}
	if req.Registration != "" {
		clearCookie(c, registrationCookie)
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// login begins a session, in cookies if the request asks for that.
func (e *Edge) login(c *fiber.Ctx) error {
	var req auth.LoginRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	if req.Carrier == auth.CarrierCookie {
		if err := e.proveOrigin(c); err != nil {
			return err
		}
	}
	reply, err := ask(e, c, auth.Login, req)
	if err != nil {
		return err
	}
	return e.begun(c, reply, req.Carrier, req.Sender)
}

// loginByCode sends a code or, with the code, is login.
func (e *Edge) loginByCode(c *fiber.Ctx) error {
	var req auth.LoginCodeRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	if req.Carrier == auth.CarrierCookie {
		if err := e.proveOrigin(c); err != nil {
			return err
		}
	}
	if req.Registration != "" {
		return notHere("registration")
	}
	var err error
	if req.Registration, err = e.registration(c); err != nil {
		return err
	}
	reply, err := ask(e, c, auth.LoginCode, req)
	if err != nil {
		return err
	}
	login, ok := reply.Login()
	if !ok {
		return c.Status(fiber.StatusAccepted).JSON(reply)
	}
	if req.Registration != "" {
		clearCookie(c, registrationCookie)
	}
	return e.begun(c, login, req.Carrier, req.Sender)
}

// begun answers with a new session. If its tokens go into cookies, the session that was in them ends:
// nobody would have its tokens any more (ASVS 7.2.4).
func (e *Edge) begun(c *fiber.Ctx, reply auth.LoginReply, carrier auth.Carrier, from auth.Sender) error {
	if carrier != auth.CarrierCookie {
		return c.JSON(reply)
	}
	before, _ := readCredentials(c) // a malformed Authorization says nothing of the cookies
	if before.refresh != "" {
		if _, err := ask(e, c, auth.Logout, auth.LogoutRequest{RefreshToken: before.refresh, Sender: from}); err != nil {
			e.Log.DebugContext(e.context(c), "the session in the cookies before is left to itself", "err", err)
		}
	}
	kept, err := setCookies(c, reply.Tokens)
	if err != nil {
		return err
	}
	return c.JSON(struct {
		Message string      `json:"message"`
		UserID  auth.UserID `json:"userId"`
		inCookies
	}{reply.Message, reply.UserID, kept})
}

// refresh exchanges the refresh token of the body or of the cookie, and answers in kind.
func (e *Edge) refresh(c *fiber.Ctx) error {
	given, err := readCredentials(c)
	if err != nil {
		return err
	}
	cookie := given.refresh
	if cookie == "" && len(c.Request().Body()) == 0 {
		return auth.ErrUnauthenticated
	}
	var req auth.RefreshRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	if req.Carrier != "" { // what carries the token is what it came in
		return notHere("carrier")
	}
	if cookie != "" {
		if req.RefreshToken != "" {
			return auth.ErrTwoCredentials
		}
		if err := e.proveOrigin(c); err != nil {
			return err
		}
		req.RefreshToken, req.Carrier = cookie, auth.CarrierCookie
	}
	reply, err := ask(e, c, auth.Refresh, req)
	if err != nil {
		return err
	}
	carrier := auth.CarrierBody
	if cookie != "" {
		carrier = auth.CarrierCookie
	}
	return hand(c, reply, carrier)
}

// hand answers with tokens, in the body or in cookies.
func hand(c *fiber.Ctx, tokens auth.Tokens, carrier auth.Carrier) error {
	if carrier != auth.CarrierCookie {
		return c.JSON(tokens)
	}
	kept, err := setCookies(c, tokens)
	if err != nil {
		return err
	}
	return c.JSON(kept)
}

// changePassword answers with the tokens of the session that takes the place of the one that asks,
// in the carrier of that.
func (e *Edge) changePassword(c *fiber.Ctx) error {
	var req auth.PasswordChangeRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	reply, err := ask(e, c, auth.PasswordChange, req)
	if err != nil {
		return err
	}
	if former, err := readUnverified(req.AccessToken); err == nil { // the service has verified it
		e.refuse(former.Sid)
	}
	return hand(c, reply.Tokens, reply.Carrier)
}

// listSessions is forward with the page from the query members after and limit.
func (e *Edge) listSessions(c *fiber.Ctx) error {
	var req auth.SessionsListRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	req.After = c.Query("after")
	if text := c.Query("limit"); text != "" {
		var err error
		if req.Limit, err = strconv.Atoi(text); err != nil {
			return auth.ErrInvalid.With(auth.Field{Field: "limit", Reason: "invalid"})
		}
	}
	reply, err := ask(e, c, auth.SessionsList, req)
	if err != nil {
		return err
	}
	return c.JSON(reply)
}

// logout ends the session of whichever token the request has. Of a session in cookies the
// refresh token is taken, which lives longer; the cookies go with the session.
func (e *Edge) logout(c *fiber.Ctx) error {
	var req auth.LogoutRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	given, err := readCredentials(c)
	if err != nil {
		return err
	}
	if given.refresh != "" {
		if req.RefreshToken != "" || req.AccessToken != given.access {
			return auth.ErrTwoCredentials
		}
		if err := e.proveOrigin(c); err != nil {
			return err
		}
		req = auth.LogoutRequest{RefreshToken: given.refresh, Sender: req.Sender}
	}
	_, err = ask(e, c, auth.Logout, req)
	if given.access+given.refresh != "" && (err == nil || auth.Public(err).Code.Status() == fiber.StatusUnauthorized) {
		clearCookies(c) // of no use any more
	}
	if err != nil {
		return err
	}
	if ended, err := readUnverified(req.AccessToken + req.RefreshToken); err == nil { // it has one of them
		e.refuse(ended.Sid)
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// deleteAccount is forward, and the cookies go with the account.
func (e *Edge) deleteAccount(c *fiber.Ctx) error {
	var req auth.AccountDeleteRequest
	if err := e.read(c, &req); err != nil {
		return err
	}
	if _, err := ask(e, c, auth.AccountDelete, req); err != nil {
		return err
	}
	if len(c.Request().Header.Cookie(accessCookie)) > 0 {
		clearCookies(c)
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// verify answers a gateway's forward-auth: the headers are for the app behind it. The query member
// scope names scopes that the token must have.
func (e *Edge) verify(c *fiber.Ctx) error {
	token, err := e.forwarded(c)
	if err != nil {
		return err
	}
	if token == "" {
		return auth.ErrUnauthenticated
	}
	scopes, err := readScopes(c.Query("scope"))
	if err != nil {
		return err
	}
	// A gateway asks for each request, so one allocation serves for all that is needed.
	var kept struct {
		ctx   requestid.Context
		reply auth.VerifyReply
	}
	kept.reply, err = e.vouch(e.within(c, &kept.ctx), auth.VerifyRequest{Token: token, Scopes: scopes})
	if err != nil {
		return err
	}
	reply := &kept.reply
	c.Set("X-Auth-User-Id", strconv.FormatInt(int64(reply.UserID), 10))
	c.Set("X-Auth-Session-Id", reply.SessionID)
	c.Set("X-Auth-Scopes", strings.Join(reply.Scopes, " "))
	return c.JSON(reply)
}

// readScopes reads scope tokens with one space between them (RFC 6749 §3.3). A list that is spelled
// otherwise could ask for less than the gateway means.
func readScopes(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	scopes := strings.Split(list, " ")
	for _, scope := range scopes {
		if scope == "" || strings.ContainsFunc(scope, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
			return nil, wrongMember("scope", strictjson.ReasonSyntax)
		}
	}
	return scopes, nil
}

// vouch verifies a token here, without a round trip. What cannot be told here (HS256 has no
// public keys, the revocations may be too old, the issuer another one than this process was
// told) the service is asked.
func (e *Edge) vouch(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
	reply, err := e.Verifier.Answer(ctx, req)
	if errors.Is(err, auth.ErrUnavailable) || errors.Is(err, auth.ErrInvalidToken) {
		return bus.Call(ctx, e.conn, auth.Verify, req)
	}
	return reply, err
}

// endSession is forward with the session's id from the path.
func (e *Edge) endSession(c *fiber.Ctx) error {
	token, _, err := e.credential(c, nil)
	if err != nil {
		return err
	}
	req := auth.SessionsRevokeRequest{Bearer: auth.Bearer{AccessToken: token}, SessionID: c.Params("id")}
	if _, err := ask(e, c, auth.SessionsRevoke, req); err != nil {
		return err
	}
	e.refuse(req.SessionID)
	return c.SendStatus(fiber.StatusNoContent)
}

func (e *Edge) keys(c *fiber.Ctx) error {
	set, err := ask(e, c, auth.Keys, auth.KeysRequest{})
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderCacheControl, keysMaxAge)
	return c.JSON(set, "application/jwk-set+json")
}

// healthy answers while the process lives.
func (e *Edge) healthy(c *fiber.Ctx) error {
	return c.JSON(auth.HealthReply{Status: "alive"})
}

// ready answers 200 if requests would succeed, and otherwise names the part that is away.
func (e *Edge) ready(c *fiber.Ctx) error {
	reply, err := e.Ready(e.context(c))
	if err != nil {
		return err
	}
	return c.JSON(reply)
}

// readyWithin is how long the service may take to say that it is ready. Who probes waits no longer.
const readyWithin = 2 * time.Second

// Ready asks the service whether requests would succeed. It returns an auth.ErrUnavailable error
// that names the part that is away, which is the bus if nobody answers.
func (e *Edge) Ready(ctx context.Context) (auth.HealthReply, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	reply, err := bus.Call(ctx, e.conn, auth.Health, auth.HealthRequest{})
	var known *auth.Error
	if err == nil || errors.As(err, &known) && known.Fields != nil {
		return reply, err
	}
	return auth.HealthReply{}, fmt.Errorf("%w: %w", auth.ErrUnavailable.With(auth.Field{Field: "bus", Reason: "away"}), err)
}

// guard is around every route: it sets the headers that every answer has, bounds the body,
// and a panic ends the request, not the process.
func (e *Edge) guard(c *fiber.Ctx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	secure(c)
	e.name(c)
	if len(c.Request().Body()) > auth.MaxRequestBytes {
		return auth.ErrPayloadTooLarge
	}
	return c.Next()
}
