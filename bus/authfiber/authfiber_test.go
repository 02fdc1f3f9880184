package authfiber_test

import (
	"fmt"
	"log"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/authfiber"
	"github.com/zyotra/auth/internal/testauthority"
)

func Example() {
	conn, err := bus.Connect("nats://127.0.0.1:4222")
	if err != nil {
		log.Fatal(err)
	}
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra"})
	if err != nil {
		log.Fatal(err)
	}
	app := fiber.New()
	app.Get("/orders", authfiber.Require(v, "orders:read"), func(c *fiber.Ctx) error {
		return c.SendString(fmt.Sprint("orders of user ", authfiber.Identity(c).UserID))
	})
	log.Fatal(app.Listen("127.0.0.1:8080"))
}

func TestRequire(t *testing.T) {
	a := testauthority.Start(t)
	tries := a.Tries(t)
	v := a.Verifier(t, bus.VerifierConfig{})
	for _, try := range tries {
		app := fiber.New()
		app.Get("/", authfiber.Require(v, try.Scope), func(c *fiber.Ctx) error {
			return c.SendString(fmt.Sprint(authfiber.Identity(c).UserID))
		})
		req := httptest.NewRequest(fiber.MethodGet, "/", nil)
		req.Header["Authorization"] = try.Authorization
		resp, err := app.Test(req, -1)
		if err != nil {
			t.Fatal(err)
		}
		try.Check(t, resp)
	}
}
