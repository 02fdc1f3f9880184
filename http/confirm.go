package http

import (
	"bytes"
	"cmp"
	_ "embed"
	"html/template"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// The pages that the links in mails lead to. To open one changes nothing, as programs that look
// at links in mails do: what is to be done is sent by its script, after a click.
var (
	//go:embed pages/confirm.html
	confirmHTML string

	//go:embed pages/confirm.js
	confirmScript []byte

	//go:embed pages/confirm.css
	confirmStyle []byte
)

// confirmPolicy lets the pages load their two files and ask us, and nothing else.
const confirmPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// confirmation is what one of the pages says and does.
type confirmation struct {
	Title, Text, Button, Done string
	Action                    string   // the route that does it, below the root
	Password                  string   // member of the request that is a password; "" if it has none
	IsCurrent                 bool     // the password is the current one of the account, not a new one
	Hint                      string   // what the page says about the password
	Instead                   []string // cookies that may stand in for the password; nil if it is always needed
}

// Autocomplete is what a password manager fills in for the password.
func (c confirmation) Autocomplete() string {
	if c.IsCurrent {
		return "current-password"
	}
	return "new-password"
}

var confirmations = map[string]confirmation{
	"/email/verify": {
		Title: "Confirm your address", Text: "You get mail at this address, and signed up with it. If you did not, close this page.",
		Button: "Confirm", Done: "Your address is confirmed. You can log in now.", Action: "email/verify",
		Password: "password", Instead: []string{accessCookie, registrationCookie},
		Hint: "The password that you signed up with, or another one. It is the password of your account from now on.",
	},
	"/password/reset": {
		Title: "Choose a new password", Text: "You will be logged out everywhere.",
		Button: "Set password", Done: "Your new password is in force. You can log in with it.", Action: "password/reset", Password: "newPassword",
	},
	"/email/change": {
		Title: "Change your address", Text: "Your account gets the address that this link was sent to. If you did not ask for that, close this page.",
		Button: "Change address", Done: "Your address has changed.", Action: "email/confirm",
		Password: "password", IsCurrent: true, Instead: []string{accessCookie},
		Hint: "The password of the account whose address changes.",
	},
	"/email/undo": {
		Title: "Undo the change of your address", Text: "Your account gets this address back, and is logged out everywhere. We send you a link to choose a new password.",
		Button: "Undo", Done: "Your address is back. Look for our mail and choose a new password.", Action: "email/undo",
	},
	"/not-me": {
		Title: "This was not you?", Text: "Your account is logged out everywhere. We send you a link to choose a new password.",
		Button: "This was not me", Done: "Your account is logged out everywhere. Look for our mail and choose a new password.", Action: "not-me",
	},
}

// defaultMinLength is the shortest password that any configuration accepts, in code points.
const defaultMinLength = 8

// confirm serves the pages and their files, which find each other wherever the root is.
func (e *Edge) confirm() {
	page := template.Must(template.New("confirm").Parse(confirmHTML))
	for path, what := range confirmations {
		root := strings.Repeat("../", strings.Count(path, "/")-1)
		render := func(asks bool) []byte {
			var text bytes.Buffer
			if err := page.Execute(&text, struct {
				confirmation
				Root      string
				Asks      bool // for the password at once
				MinLength int
			}{what, root, asks, cmp.Or(e.PasswordMinLength, defaultMinLength)}); err != nil {
				panic(err) // both are ours
			}
			return text.Bytes()
		}
		asking, plain := render(true), render(what.Instead == nil)
		e.get(path, func(c *fiber.Ctx) error {
			c.Set(fiber.HeaderContentSecurityPolicy, confirmPolicy)
			c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
			if slices.ContainsFunc(what.Instead, func(name string) bool { return c.Cookies(name) != "" }) {
				return c.Send(plain) // the script asks for the password if that is not enough
			}
			return c.Send(asking)
		})
	}
	e.get("/confirm.js", document("text/javascript; charset=utf-8", confirmScript))
	e.get("/confirm.css", document("text/css; charset=utf-8", confirmStyle))
}
