package http

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	nethttp "net/http"
	"net/url"
	"testing"
	"testing/iotest"

	"github.com/zyotra/auth"
)

// feed gives text to a framer in pieces, and returns how many bytes the first request took and why it
// was refused.
func feed(text []byte, piece int) (taken int, f *framer, err error) {
	f = new(framer)
	for taken < len(text) {
		n, err := f.check(text[taken:min(len(text), taken+piece)])
		taken += n
		if err != nil || f.phase == between {
			return taken, f, err
		}
	}
	return taken, f, nil
}

// A head that is accepted is accepted by net/http too, which finds the same end of the request, and
// nothing depends on how it arrives.
func FuzzFramer(f *testing.F) {
	for _, text := range []string{
		"GET /verify HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n",
		"\r\nPOST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}GET",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\nContent-Encoding:\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n",
		"PROPFIND /verify/x HTTP/1.1\r\nhost: a\r\nORIGIN: https://a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		taken, whole, err := feed(text, len(text)+1)
		if single, split, splitErr := feed(text, 1); single != taken && err == nil || split.phase != whole.phase || (splitErr == nil) != (err == nil) {
			t.Fatalf("whole: %d, %d, %v; byte by byte: %d, %d, %v", taken, whole.phase, err, single, split.phase, splitErr)
		}
		if err != nil || whole.phase != between && whole.phase != unframed {
			return // refused, or not at its end
		}
		reader := bufio.NewReader(iotest.OneByteReader(bytes.NewReader(text)))
		request, err := nethttp.ReadRequest(reader)
		if err != nil {
			return // for reasons that have nothing to do with framing: the server finds them
		}
		if whole.phase == unframed {
			if len(request.TransferEncoding) != 1 || request.TransferEncoding[0] != "chunked" {
				t.Fatalf("net/http: %v", request.TransferEncoding)
			}
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil || int64(len(body)) != whole.head.length {
			t.Fatalf("net/http reads %d bytes, %v; the framer %d", len(body), err, whole.head.length)
		}
		rest, _ := io.ReadAll(reader)
		if len(text)-len(rest) != taken {
			t.Fatalf("net/http takes %d bytes, the framer %d", len(text)-len(rest), taken)
		}
	})
}

// A query that is accepted means the same to net/url, which the route's handler may rely on.
func FuzzCheckQuery(f *testing.F) {
	for _, query := range []string{
		"", "scope=a", "scope=a%20b", "scope=a+b", "scope", "scope=", "scope=a&scope=b", "Scope=a", "scopes=a", "limit=1&after=x",
		"&", "scope=a&", "scope=%zz", "sc%6fpe=a", "scope=a;b", "scope=%00", "scope=\xff", "=a", "a=b=c", "scope=a=b",
	} {
		f.Add(query)
	}
	known := []string{"scope", "after", "limit"}
	f.Fuzz(func(t *testing.T, query string) {
		err := checkQuery([]byte(query), known)
		values, parsed := url.ParseQuery(query)
		valid := parsed == nil
		for name, all := range values {
			valid = valid && len(all) == 1 && all[0] != "" && isText(all[0]) && (name == known[0] || name == known[1] || name == known[2])
		}
		if err == nil && !valid {
			t.Fatalf("%q is accepted: %v, %v", query, values, parsed)
		}
	})
}

func TestCheckQuery(t *testing.T) {
	for query, want := range map[string]string{
		"":                     "",
		"scope=a":              "",
		"scope=a%20b":          "",
		"sc%6fpe=a+b&after=1":  "",
		"scope=":               "[{scope empty}]",
		"scope":                "[{scope empty}]",
		"scope=a&scope=a":      "[{scope duplicate_member}]",
		"scope=&scope=x":       "[{scope empty}]",
		"scopes=a":             "[{scopes unknown_member}]",
		"Scope=a":              "[{Scope unknown_member}]",
		"scope=a&":             "[{ unknown_member}]",
		"scope=a;scope=b":      "[{scope syntax}]",
		"scope=%zz":            "[{scope syntax}]",
		"scope=a%00":           "[{scope syntax}]",
		"scope=%ff":            "[{scope syntax}]",
		"%ff=a":                "[]",
		"scope=a&x=%zz&after=": "[{x unknown_member}]",
	} {
		err := checkQuery([]byte(query), []string{"scope", "after"})
		got := ""
		if err != nil {
			got = fieldsOf(err)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

func fieldsOf(err error) string { return fmt.Sprint(auth.Public(err).Fields) }
