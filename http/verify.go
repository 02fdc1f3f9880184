package http

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/requestid"
	"github.com/zyotra/auth/internal/strictjson"
)

// verify answers a gateway's forward-auth: the headers are for the app behind it. The query member
// scope names scopes that the token must have.
func (e *Edge) verify(c *fiber.Ctx) error {
	token, err := e.gatewayCredential(c)
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
	kept.reply, err = e.verifyLocally(e.contextIn(c, &kept.ctx), auth.VerifyRequest{Token: token, Scopes: scopes})
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

// verifyLocally verifies a token here, without a round trip. What cannot be told here (HS256 has no
// public keys, the revocations may be too old, the issuer another one than this process was
// told) the service is asked.
func (e *Edge) verifyLocally(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
	reply, err := e.Verifier.Answer(ctx, req)
	if errors.Is(err, auth.ErrUnavailable) || errors.Is(err, auth.ErrInvalidToken) {
		return bus.Call(ctx, e.conn, auth.Verify, req)
	}
	return reply, err
}

func (e *Edge) keys(c *fiber.Ctx) error {
	set, err := ask(e, c, auth.Keys, auth.KeysRequest{})
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderCacheControl, keysMaxAge)
	return c.JSON(set, "application/jwk-set+json")
}
