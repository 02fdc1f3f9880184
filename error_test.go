package auth_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/zyotra/auth"
)

func ExamplePublic() {
	err := fmt.Errorf("create account: %w", auth.ErrEmailTaken)
	fmt.Println(auth.Public(err).Code, auth.Public(err).Code.Status())
	fmt.Println(auth.Public(io.ErrUnexpectedEOF).Code)
	// Output:
	// email_taken 409
	// internal
}

func ExampleError_With() {
	err := auth.ErrInvalid.With(auth.Field{Field: "password", Reason: "too_short"})
	fmt.Println(err.Fields, errors.Is(err, auth.ErrInvalid), auth.ErrInvalid.Fields)
	// Output: [{password too_short}] true []
}

func ExampleError_After() {
	err := auth.ErrRateLimited.After(1500 * time.Millisecond)
	fmt.Println(err.RetryAfter, errors.Is(err, auth.ErrRateLimited), auth.ErrRateLimited.RetryAfter)
	// Output: 2 true 0
}

func TestParseBearer(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer a.b.c": "a.b.c",
		"bearer a.b.c": "a.b.c",
		"Bearer":       "",
		"Bearer ":      "",
		"Bearer  a":    "a",
		"BEARER    a":  "a",
		"Bearer   ":    "",
		"Bearer\ta":    "",
		"Bearer a b":   "",
		"Bearer a,b":   "",
		"Basic YTpi":   "",
		"a.b.c":        "",
		"":             "",
	} {
		token, ok := auth.ParseBearer(header)
		if token != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", header, token, ok)
		}
	}
}

func TestBearerTokenIgnoresOtherSchemes(t *testing.T) {
	for _, c := range []struct {
		headers []string
		token   string
		err     error
	}{
		{nil, "", nil},
		{[]string{""}, "", nil},
		{[]string{"Basic YTpi"}, "", nil},
		{[]string{"Digest username=\"a\", realm=\"b\""}, "", nil},
		{[]string{"Bearer  a"}, "a", nil},
		{[]string{"Bearer"}, "", auth.ErrInvalidToken},
		{[]string{"Bearer "}, "", auth.ErrInvalidToken},
		{[]string{"Bearer a b"}, "", auth.ErrInvalidToken},
		{[]string{"Bearer a, Basic YTpi"}, "", auth.ErrInvalidToken},
		{[]string{"eyJ"}, "", auth.ErrInvalidToken},
		{[]string{"Bearer a", "Basic YTpi"}, "", auth.ErrTwoCredentials},
		{[]string{"Basic YTpi", "Basic YTpi"}, "", auth.ErrTwoCredentials},
	} {
		token, err := auth.BearerToken(c.headers)
		if token != c.token || !errors.Is(err, c.err) {
			t.Errorf("%q: %q, %v", c.headers, token, err)
		}
	}
}
