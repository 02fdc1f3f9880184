package http

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/strictjson"
)

// bearer and origin are what requests of the root package embed.
type (
	bearer interface{ Credential() *string }
	origin interface{ From() **auth.Client }
)

// forward answers a route by asking op.
func forward[Req, Resp any](e *Edge, op auth.Op[Req, Resp], status int) fiber.Handler {
	return func(c *fiber.Ctx) error {
		var req Req
		if err := read(c, &req); err != nil {
			return err
		}
		// Fiber's own context never ends; Call sets the timeout.
		resp, err := bus.Call(context.Background(), e.conn, op, req)
		if err != nil {
			return err
		}
		if status == fiber.StatusNoContent {
			return c.SendStatus(status)
		}
		return c.Status(status).JSON(resp)
	}
}

// read fills a request from the body, the Authorization header and the connection.
func read(c *fiber.Ctx, req any) error {
	if err := readBody(c, req); err != nil {
		return err
	}
	if b, ok := req.(bearer); ok {
		token, err := authorization(c)
		if err != nil {
			return err
		}
		*b.Credential() = token
	}
	if o, ok := req.(origin); ok {
		if *o.From() != nil { // a member of the bus alone: here the edge knows better
			return auth.ErrMalformed.With(auth.Field{Field: "client", Reason: strictjson.ReasonUnknown})
		}
		*o.From() = &auth.Client{IP: c.IP(), UserAgent: c.Get(fiber.HeaderUserAgent)}
	}
	return nil
}

// readBody reads the JSON of a request that changes something. A body may be absent where a
// token can take its place.
func readBody(c *fiber.Ctx, req any) error {
	if c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead {
		return nil
	}
	if _, ok := req.(bearer); ok && len(c.Body()) == 0 {
		return nil
	}
	if !isJSON(c.Get(fiber.HeaderContentType)) || c.Get(fiber.HeaderContentEncoding) != "" {
		return auth.ErrUnsupportedMedia
	}
	return strictjson.Unmarshal(c.Body(), req)
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

// authorization is auth.BearerToken of the request.
func authorization(c *fiber.Ctx) (string, error) {
	var headers []string
	for _, h := range c.Request().Header.PeekAll(fiber.HeaderAuthorization) {
		headers = append(headers, string(h))
	}
	return auth.BearerToken(headers)
}

// verify answers a gateway's forward-auth: the headers are for what stands behind it.
func (e *Edge) verify(c *fiber.Ctx) error {
	token, err := authorization(c)
	if err != nil {
		return err
	}
	if token == "" {
		return auth.ErrUnauthenticated
	}
	reply, err := bus.Call(context.Background(), e.conn, auth.Verify, auth.VerifyRequest{Token: token})
	if err != nil {
		return err
	}
	c.Set("X-Auth-User-Id", strconv.FormatInt(int64(reply.UserID), 10))
	c.Set("X-Auth-Session-Id", reply.SessionID)
	c.Set("X-Auth-Scopes", strings.Join(reply.Scopes, " "))
	return c.JSON(reply)
}

// endSession is forward with the session's id from the path.
func (e *Edge) endSession(c *fiber.Ctx) error {
	token, err := authorization(c)
	if err != nil {
		return err
	}
	req := auth.SessionsRevokeRequest{Bearer: auth.Bearer{AccessToken: token}, SessionID: c.Params("id")}
	if _, err := bus.Call(context.Background(), e.conn, auth.SessionsRevoke, req); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (e *Edge) keys(c *fiber.Ctx) error {
	set, err := bus.Call(context.Background(), e.conn, auth.Keys, auth.KeysRequest{})
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
	reply, err := bus.Call(context.Background(), e.conn, auth.Health, auth.HealthRequest{})
	var known *auth.Error
	if errors.As(err, &known) && known.Fields != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", auth.ErrUnavailable.With(auth.Field{Field: "bus", Reason: "away"}), err)
	}
	return c.JSON(reply)
}

// knownMethods refuses methods that HTTP does not define, to which Fiber would answer in
// its own words.
func (e *Edge) knownMethods(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if slices.Contains(fiber.DefaultMethods, string(ctx.Method())) {
			next(ctx)
			return
		}
		c := e.app.AcquireCtx(ctx)
		defer e.app.ReleaseCtx(c)
		if err := e.fail(c, auth.ErrMalformed); err != nil {
			e.log.Error("encode problem", "err", err)
		}
	}
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
	if len(c.Request().Body()) > auth.MaxRequestBytes {
		return auth.ErrPayloadTooLarge
	}
	return c.Next()
}
