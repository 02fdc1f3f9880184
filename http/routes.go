package http

import (
	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
)

// addRoutes registers all routes of the edge.
func (e *Edge) addRoutes() {
	e.post("/register", e.register)
	e.post("/login", e.login)
	e.post("/login/code", e.loginByCode)
	e.post("/refresh", e.refresh)
	e.post("/logout", e.logout)
	e.get("/me", forward(e, auth.AccountGet, fiber.StatusOK))
	e.patch("/me", forward(e, auth.AccountUpdate, fiber.StatusOK))
	e.delete("/me", e.deleteAccount)
	e.post("/me/password", e.changePassword)
	e.post("/me/email", forward(e, auth.EmailChange, fiber.StatusAccepted))
	e.post("/email/verify", e.verifyEmail)
	e.post("/email/resend", forward(e, auth.EmailResend, fiber.StatusAccepted))
	e.post("/email/confirm", e.confirmEmail)
	e.post("/email/undo", forward(e, auth.EmailUndo, fiber.StatusNoContent))
	e.post("/password/forgot", forward(e, auth.PasswordForgot, fiber.StatusAccepted))
	e.post("/password/reset", forward(e, auth.PasswordReset, fiber.StatusNoContent))
	e.post("/not-me", forward(e, auth.NotMe, fiber.StatusNoContent))
	e.get("/sessions", e.listSessions, "after", "limit")
	e.delete("/sessions", forward(e, auth.SessionsRevokeOthers, fiber.StatusNoContent))
	e.delete("/sessions/:id", e.endSession)
	e.get(verifyPath, e.verify, "scope")
	e.get("/.well-known/jwks.json", e.keys)
	e.get("/healthz", e.healthy)
	e.get("/readyz", e.ready)
	e.confirm()
	if e.Documents {
		e.describe()
	}
}

// get adds a route that reads. It answers HEAD too. Query names the members that its query may have.
func (e *Edge) get(path string, handle fiber.Handler, query ...string) {
	e.app.Get(path, strict(path, query, handle))
}

func (e *Edge) post(path string, handle fiber.Handler) {
	e.app.Post(path, strict(path, nil, handle))
}

func (e *Edge) patch(path string, handle fiber.Handler) {
	e.app.Patch(path, strict(path, nil, handle))
}

func (e *Edge) delete(path string, handle fiber.Handler) {
	e.app.Delete(path, strict(path, nil, handle))
}
