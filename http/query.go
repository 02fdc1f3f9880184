package http

import (
	"bytes"
	"net/url"
	"slices"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
)

// Reasons given for a query member at fault, besides those that members of bodies have too.
const reasonEmpty = "empty"

// strict is around the handler of each route: it refuses a query with other members than the named
// ones, and a Content-Encoding. A gateway passes its client's Content-Encoding on to verifyPath
// without the body, so it says nothing there.
func strict(path string, query []string, handle fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if err := checkQuery(c.Request().URI().QueryString(), query); err != nil {
			return err
		}
		if path != verifyPath && len(c.Request().Header.PeekAll(fiber.HeaderContentEncoding)) > 0 {
			return auth.ErrUnsupportedMedia
		}
		return handle(c)
	}
}

// checkQuery returns an auth.ErrMalformed error unless each member of a query is known, is there once
// and has a value: text in UTF-8 without control characters, percent-encoded (WHATWG URL §5.1).
func checkQuery(query []byte, known []string) error {
	if len(query) == 0 {
		return nil
	}
	var seen []string
	for part := range bytes.SplitSeq(query, []byte("&")) {
		name, value, _ := bytes.Cut(part, []byte("="))
		member, err := url.QueryUnescape(string(name))
		if err != nil || !isText(member) {
			return auth.ErrMalformed
		}
		switch text, err := url.QueryUnescape(string(value)); {
		case !slices.Contains(known, member):
			return wrongMember(member, strictjson.ReasonUnknown)
		case slices.Contains(seen, member):
			return wrongMember(member, strictjson.ReasonDuplicate)
		case text == "" && err == nil:
			return wrongMember(member, reasonEmpty)
		case err != nil || !isText(text) || bytes.IndexByte(value, ';') >= 0:
			return wrongMember(member, strictjson.ReasonSyntax)
		}
		seen = append(seen, member)
	}
	return nil
}

func wrongMember(name, reason string) error {
	return auth.ErrMalformed.With(auth.Field{Field: name, Reason: reason})
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	return utf8.ValidString(s) && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c < ' ' || c == 0x7f })
}
