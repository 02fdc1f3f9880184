package http

import (
	"context"
	"mime"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/strictjson"
)

// bearerRequest and senderRequest are implemented by requests that embed auth.Bearer and auth.Sender.
type (
	bearerRequest interface{ Credential() *string }
	senderRequest interface{ From() **auth.ClientInfo }
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

// ask is bus.Call, with the timeout of op. Fiber's own context never ends.
func ask[Req, Resp any](e *Edge, c *fiber.Ctx, op auth.Op[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(e.context(c), timeoutOf(string(op)))
	defer cancel()
	return bus.Call(ctx, e.conn, op, req)
}

// timeoutOf is how long an answer is waited for. It never comes if whoever was asked has died, so
// it is short where nobody waits for a turn to hash a password. That of a refresh is well within
// REFRESH_GRACE, so that the same token is still good for the caller's retry.
func timeoutOf(subject string) time.Duration {
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
	b, isBearer := req.(bearerRequest)
	if isBearer {
		if *b.Credential(), body, err = e.accessToken(c, body); err != nil {
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
	if o, ok := req.(senderRequest); ok {
		if *o.From() != nil { // a member of the bus alone: here the edge knows better
			return unknownMember("client")
		}
		*o.From() = &auth.ClientInfo{IP: e.address(c), UserAgent: c.Get(fiber.HeaderUserAgent)}
	}
	return nil
}

// unknownMember refuses a member that the bus has and HTTP has not.
func unknownMember(member string) error {
	return auth.ErrMalformed.With(auth.Field{Field: member, Reason: strictjson.ReasonUnknown})
}

// readBody returns the JSON of a request that changes something, nil of any other. A body
// may be absent where a token can take its place.
func readBody(c *fiber.Ctx, req any) ([]byte, error) {
	if isSafe(c.Method()) {
		return nil, nil
	}
	_, isBearer := req.(bearerRequest)
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
