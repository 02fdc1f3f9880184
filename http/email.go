package http

import (
	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
)

// readMailed is read for a request whose member token belongs to a mail. The access token is in a
// header or a cookie then.
func (e *Edge) readMailed(c *fiber.Ctx, req bearerRequest) error {
	body, err := readBody(c, req)
	if err != nil {
		return err
	}
	access, _, err := e.accessToken(c, nil)
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
		return unknownMember("registration")
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
