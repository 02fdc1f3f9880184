package testauthd

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
)

// Exchange is a request and its answer, over HTTP or NATS.
type Exchange struct {
	Request, Answer Message
}

// Message is one side of an exchange.
type Message struct {
	To     string              `json:"to,omitempty"`     // "POST /login", or a subject
	Status int                 `json:"status,omitempty"` // HTTP
	Header map[string][]string `json:"header,omitempty"`
	Body   string              `json:"-"`
}

// Bearer returns the header of a request on behalf of a user.
func Bearer(token string) map[string][]string {
	return map[string][]string{"Authorization": {"Bearer " + token}}
}

// Post sends JSON.
func (a *Instance) Post(t testing.TB, path, body string) Exchange {
	t.Helper()
	return a.Do(t, "POST "+path, map[string][]string{"Content-Type": {"application/json"}}, body)
}

// Get sends an access token, unless it is empty.
func (a *Instance) Get(t testing.TB, path, token string) Exchange {
	t.Helper()
	if token == "" {
		return a.Do(t, "GET "+path, nil, "")
	}
	return a.Do(t, "GET "+path, Bearer(token), "")
}

// Client is the HTTP client of the tests. It has a timeout and follows no redirect.
var Client = http.Client{
	Timeout:       Patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Do sends a request such as "POST /login" and fails the test if Try returns an error.
func (a *Instance) Do(t testing.TB, line string, header map[string][]string, body string) Exchange {
	t.Helper()
	e, err := a.Try(line, header, body)
	Check(t, err)
	return e
}

// Try is Do for requests that may fail, and for goroutines. An exchange that openapi.json does
// not describe is an error too.
func (a *Instance) Try(line string, header map[string][]string, body string) (Exchange, error) {
	method, path, _ := strings.Cut(line, " ")
	req, err := http.NewRequest(method, a.HTTP+path, strings.NewReader(body))
	if err != nil {
		return Exchange{}, err
	}
	maps.Copy(req.Header, header)
	resp, err := Client.Do(req)
	if err != nil {
		return Exchange{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return Exchange{}, err
	}
	e := Exchange{
		Message{To: line, Header: header, Body: body},
		Message{Status: resp.StatusCode, Header: resp.Header, Body: string(content)},
	}
	if a.Foreign {
		return e, nil
	}
	return e, e.AsDescribed()
}

// Served is Try for a request that may be repeated: it sends the request again while a busy machine
// answers 503.
func (a *Instance) Served(line string, header map[string][]string, body string) (e Exchange, err error) {
	for late := time.Now().Add(Patience); ; {
		e, err = a.Try(line, header, body)
		if err != nil || e.Answer.Status != http.StatusServiceUnavailable || time.Now().After(late) {
			return e, err
		}
	}
}

// Ask sends a request over NATS and waits for its reply.
func Ask(t testing.TB, conn *nats.Conn, subject string, header map[string][]string, body string) Exchange {
	t.Helper()
	reply, err := conn.RequestMsg(&nats.Msg{Subject: subject, Header: header, Data: []byte(body)}, Patience)
	Check(t, err)
	return Exchange{
		Message{To: subject, Header: header, Body: body},
		Message{Header: reply.Header, Body: string(reply.Data)},
	}
}

// Connect returns a client of the bus, without credentials unless the options bring some.
func Connect(t testing.TB, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url, options...)
	Check(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// AsApp connects as other services do.
func (a *Instance) AsApp(t testing.TB) *nats.Conn {
	t.Helper()
	return a.AsRole(t, embedded.App)
}

// AsRole connects with the key of a role on the embedded server, and without any on a server of
// the tests, which restricts no client.
func (a *Instance) AsRole(t testing.TB, role string) *nats.Conn {
	t.Helper()
	files := filepath.Join(a.Dir, "data", "nats")
	if _, err := os.Stat(embedded.SeedFile(files, role)); err != nil {
		return Connect(t, a.NATS)
	}
	return Connect(t, a.NATS, embedded.Credentials(files, role))
}

// Answered expects an answer over HTTP: its status and its JSON, in which volatile values are
// masked.
func (e Exchange) Answered(t testing.TB, status int, body string) {
	t.Helper()
	if e.Answer.Status != status || Canonical(t, Mask(e.Answer.Body)) != Canonical(t, body) {
		t.Fatalf("%s: %d %s\nwant %d %s", e.Request.To, e.Answer.Status, e.Answer.Body, status, body)
	}
}

// Replied expects a reply over NATS that is no error.
func (e Exchange) Replied(t testing.TB, body string) {
	t.Helper()
	if len(e.Answer.Header) != 0 || Canonical(t, Mask(e.Answer.Body)) != Canonical(t, body) {
		t.Fatalf("%s: %v %s\nwant %s", e.Request.To, e.Answer.Header, e.Answer.Body, body)
	}
}

// Refused expects an error over HTTP or NATS, with these fields or, if they are empty, none.
func (e Exchange) Refused(t testing.TB, status int, code, fields string) {
	t.Helper()
	var body struct{ Message string }
	if err := json.Unmarshal([]byte(e.Answer.Body), &body); err != nil || body.Message == "" {
		t.Fatalf("%s: %d %v %q has no message: %v", e.Request.To, e.Answer.Status, e.Answer.Header, e.Answer.Body, err)
	}
	want := map[string]any{"code": code, "message": body.Message}
	header := map[string]string{"Nats-Service-Error": body.Message, "Nats-Service-Error-Code": strconv.Itoa(status)}
	if e.Answer.Status != 0 {
		want["type"], want["title"] = "urn:zyotra:auth:problem:"+code, http.StatusText(status)
		want["status"], want["detail"] = status, body.Message
		header = problemHeader(status, code)
		e.Secured(t)
	}
	if fields != "" {
		want["fields"] = json.RawMessage(fields)
	}
	if got, want := Canonical(t, e.Answer.Body), Canonical(t, Encode(t, want)); got != want {
		t.Fatalf("%s: got %s\nwant %s", e.Request.To, got, want)
	}
	if e.Answer.Status != 0 && e.Answer.Status != status {
		t.Errorf("%s: status %d, want %d", e.Request.To, e.Answer.Status, status)
	}
	e.Has(t, header)
}

// problemHeader returns the headers that a problem has beside those of every answer.
func problemHeader(status int, code string) map[string]string {
	header := map[string]string{"Content-Type": "application/problem+json"}
	switch status {
	case http.StatusUnauthorized:
		header["Www-Authenticate"] = `Bearer realm="zyotra"`
		if strings.Contains(code, "token") { // RFC 6750 §3: one was presented
			header["Www-Authenticate"] += `, error="invalid_token"`
		}
	case http.StatusServiceUnavailable:
		header["Retry-After"] = "1"
	}
	return header
}

// Secured expects the headers of every answer over HTTP.
func (e Exchange) Secured(t testing.TB) {
	t.Helper()
	e.Has(t, map[string]string{
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains",
		"X-Content-Type-Options":    "nosniff",
		"Referrer-Policy":           "no-referrer",
		"Content-Security-Policy":   "default-src 'none'; frame-ancestors 'none'",
		"Cache-Control":             "no-store",
	})
	if server, ok := e.Answer.Header["Server"]; ok {
		t.Errorf("%s: the server names itself %q", e.Request.To, server)
	}
}

// Has expects each of the headers once, with the value.
func (e Exchange) Has(t testing.TB, header map[string]string) {
	t.Helper()
	for name, want := range header {
		if got := e.Answer.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %s is %q, want %q", e.Request.To, name, got, want)
		}
	}
}

// Member returns a string that the answer must have.
func (e Exchange) Member(t testing.TB, name string) string {
	t.Helper()
	var members map[string]any
	Check(t, json.Unmarshal([]byte(e.Answer.Body), &members))
	value, ok := members[name].(string)
	if !ok {
		t.Fatalf("%s: no %s in %s", e.Request.To, name, e.Answer.Body)
	}
	return value
}

// volatile lists the values that differ from run to run. A value of another form stays as it is
// and fails the comparison.
var volatile = []struct{ pattern, name string }{
	{`eyJ[\w-]+\.[\w-]+\.[\w-]+`, "<token>"},
	{`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z`, "<time>"},
	{`\b[0-9a-v]{36}\b`, "<session>"},
	{`max-age=1(296000|2959\d\d);`, "max-age=<seconds>;"}, // of the refresh cookie
	{`"cursor":"\d+\.\d+"`, `"cursor":"<cursor>"`},
	{`"recent":"\d+\.\d+"`, `"recent":"<cursor>"`},
	{`"(kid|ce-subject)":"[\w-]{16}"`, `"$1":"<kid>"`},
	{`\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b`, "<uuid>"},
	{`"sequence":\d+`, `"sequence":"<sequence>"`},
	{`"x":"[\w-]{43}"`, `"x":"<key>"`},
	{`"token":"[A-Z2-7]{26}"`, `"token":"<link>"`},
	{`"secret":"[A-Z2-7]{26}"`, `"secret":"<secret>"`},
	{`__Host-registration=[A-Z2-7]{26};`, "__Host-registration=<secret>;"},
	{`"code":"\d{8}"`, `"code":"<code>"`},
}

// Mask replaces the values that differ from run to run by names.
func Mask(text string) string {
	for _, v := range volatile {
		text = regexp.MustCompile(v.pattern).ReplaceAllString(text, v.name)
	}
	return text
}

// Canonical formats JSON in one way. The empty text stays empty.
func Canonical(t testing.TB, text string) string {
	t.Helper()
	if text == "" {
		return ""
	}
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%q is not JSON: %v", text, err)
	}
	return Encode(t, value)
}

// Encode formats a value as indented JSON.
func Encode(t testing.TB, value any) string {
	t.Helper()
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	Check(t, e.Encode(value))
	return text.String()
}

// Done expects a request to have been carried out, over HTTP or NATS.
func (e Exchange) Done(t testing.TB) Exchange {
	t.Helper()
	if e.Answer.Status >= 300 || e.Answer.Header["Nats-Service-Error"] != nil {
		t.Fatalf("%s %s: %d %v %s", e.Request.To, e.Request.Body, e.Answer.Status, e.Answer.Header, e.Answer.Body)
	}
	return e
}
