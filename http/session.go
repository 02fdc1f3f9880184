package http

import (
	"strconv"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
)

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
	return e.respondWithSession(c, reply, req.Carrier, req.Sender)
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
		return unknownMember("registration")
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
	return e.respondWithSession(c, login, req.Carrier, req.Sender)
}

// respondWithSession answers with a new session. If its tokens go into cookies, the session that was in them ends:
// nobody would have its tokens any more (ASVS 7.2.4).
func (e *Edge) respondWithSession(c *fiber.Ctx, reply auth.LoginReply, carrier auth.Carrier, from auth.Sender) error {
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
		return unknownMember("carrier")
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
	return respondWithTokens(c, reply, carrier)
}

// respondWithTokens answers with tokens, in the body or in cookies.
func respondWithTokens(c *fiber.Ctx, tokens auth.Tokens, carrier auth.Carrier) error {
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
	return respondWithTokens(c, reply.Tokens, reply.Carrier)
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

// endSession is forward with the session's id from the path.
func (e *Edge) endSession(c *fiber.Ctx) error {
	token, _, err := e.accessToken(c, nil)
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
