package main

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/docs"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
)

// The document is not so lax that it lets everything pass.
func TestADifferenceFromOpenAPIIsNoticed(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	signUp(t, a)
	login := a.post(t, "/login", credentials)
	check(t, login.shared().AsDescribed())
	for name, change := range map[string]func(*exchange){
		"another member":  func(e *exchange) { e.Answer.Body = strings.Replace(e.Answer.Body, "{", `{"role":"admin",`, 1) },
		"a member less":   func(e *exchange) { e.Answer.Body = strings.Replace(e.Answer.Body, `"userId":1,`, "", 1) },
		"another type":    func(e *exchange) { e.Answer.Body = strings.Replace(e.Answer.Body, `"userId":1`, `"userId":"1"`, 1) },
		"another status":  func(e *exchange) { e.Answer.Status = 201 },
		"no header":       func(e *exchange) { delete(e.Answer.Header, "Cache-Control") },
		"another header":  func(e *exchange) { e.Answer.Header["Cache-Control"] = []string{"public"} },
		"another request": func(e *exchange) { e.Request.Body = strings.Replace(e.Request.Body, "{", `{"remember":true,`, 1) },
	} {
		changed := login
		changed.Answer.Header = http.Header(login.Answer.Header).Clone()
		change(&changed)
		if changed.shared().AsDescribed() == nil {
			t.Errorf("%s is let pass", name)
		}
	}
}

// described is an operation of asyncapi.json that answers.
type described struct {
	subject        string
	request, reply any // JSON Schemas
	authorization  bool
	roles          []string
}

// asyncAPIOperations reads the operations that answer, by their subjects.
func asyncAPIOperations(t *testing.T) map[string]described {
	t.Helper()
	var root any
	check(t, json.Unmarshal(docs.AsyncAPI, &root))
	at := func(value any, path ...string) any {
		for _, name := range path {
			value = resolved(t, root, value).(map[string]any)[name]
		}
		return resolved(t, root, value)
	}
	all := map[string]described{}
	for id := range at(root, "operations").(map[string]any) {
		op := at(root, "operations", id)
		if at(op, "action") == "send" {
			continue // an event
		}
		message := at(op, "messages").([]any)[0]
		d := described{
			subject: at(op, "channel", "address").(string),
			request: schemaOnly(t, root, at(message, "payload")),
			reply:   schemaOnly(t, root, at(at(op, "reply", "messages").([]any)[0], "payload")),
		}
		d.authorization = at(message, "headers") != nil
		for _, role := range at(op, "x-roles").([]any) {
			d.roles = append(d.roles, role.(string))
		}
		all[d.subject] = d
	}
	return all
}

// resolved follows references into the document.
func resolved(t *testing.T, root, value any) any {
	t.Helper()
	for {
		object, _ := value.(map[string]any)
		ref, ok := object["$ref"].(string)
		if !ok {
			return value
		}
		value = root
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			value = resolved(t, root, value).(map[string]any)[name]
		}
	}
}

// schemaOnly is a schema with its references in place and without what is for people.
func schemaOnly(t *testing.T, root, value any) any {
	t.Helper()
	switch value := resolved(t, root, value).(type) {
	case map[string]any:
		clean := map[string]any{}
		for name, v := range value {
			_, isText := v.(string)
			empty, isObject := v.(map[string]any)
			if name == "description" && isText || name == "properties" && isObject && len(empty) == 0 {
				continue
			}
			clean[name] = schemaOnly(t, root, v)
		}
		return clean
	case []any:
		clean := make([]any, len(value))
		for i, v := range value {
			clean[i] = schemaOnly(t, root, v)
		}
		return clean
	default:
		return value
	}
}

func TestAsyncAPIListsWhatTheServiceAnnounces(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	var info struct {
		Endpoints []struct {
			Subject    string
			QueueGroup string `json:"queue_group"`
			Metadata   map[string]string
		}
	}
	check(t, json.Unmarshal([]byte(ask(t, connect(t, a.nats), "$SRV.INFO.auth", nil, "").Answer.Body), &info))
	missing := asyncAPIOperations(t)
	seen := map[string]bool{}
	for _, e := range info.Endpoints {
		if seen[e.Subject] { // one of the workers
			continue
		}
		seen[e.Subject] = true
		d, ok := missing[e.Subject]
		if !ok {
			t.Errorf("%s is announced, but not in asyncapi.json", e.Subject)
			continue
		}
		delete(missing, e.Subject)
		for name, documented := range map[string]any{"request_schema": d.request, "response_schema": d.reply} {
			var announced any
			check(t, json.Unmarshal([]byte(e.Metadata[name]), &announced))
			if got, want := encode(t, documented), encode(t, schemaOnly(t, announced, announced)); got != want {
				t.Errorf("%s: %s in asyncapi.json is\n%s\nannounced is\n%s", e.Subject, name, got, want)
			}
		}
		if announced := e.Metadata["authorization"] != ""; announced != d.authorization {
			t.Errorf("%s: header Authorization in asyncapi.json: %v, announced: %v", e.Subject, d.authorization, announced)
		}
		if e.QueueGroup != "q" {
			t.Errorf("%s: queue group %q", e.Subject, e.QueueGroup)
		}
	}
	for subject := range missing {
		t.Errorf("%s is in asyncapi.json, but not announced", subject)
	}
}

func TestAsyncAPINamesTheRolesThatMayAsk(t *testing.T) {
	t.Parallel()
	for subject, d := range asyncAPIOperations(t) {
		if want := rolesThatMay(subject, func(r embedded.Role) embedded.Subjects { return r.Publish }); !slices.Equal(d.roles, want) {
			t.Errorf("%s: roles %q, want %q", subject, d.roles, want)
		}
	}
}

func TestAsyncAPINamesTheRolesThatMayHear(t *testing.T) {
	t.Parallel()
	all, err := testauthd.AsyncAPIEvents()
	check(t, err)
	for subject, d := range all {
		want := rolesThatMay(subject, func(r embedded.Role) embedded.Subjects { return r.Subscribe })
		if subject == events.MailType && want == nil { // it is taken from the queue, beside those who keep it
			want = []string{embedded.Mailer}
		}
		if !slices.Equal(d.Roles, want) {
			t.Errorf("%s: roles %q, want %q", subject, d.Roles, want)
		}
	}
}

// rolesThatMay names the roles with a right to a subject.
func rolesThatMay(subject string, right func(embedded.Role) embedded.Subjects) (names []string) {
	covers := func(pattern string) bool { return server.SubjectsCollide(subject, pattern) }
	for _, r := range embedded.Roles() {
		if may := right(r); slices.ContainsFunc(may.Allow, covers) && !slices.ContainsFunc(may.Deny, covers) {
			names = append(names, r.Name)
		}
	}
	return names
}

// Nor do the schemas of events let everything pass.
func TestADifferenceFromAsyncAPIIsNoticed(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := connect(t, a.nats)
	sub, err := conn.SubscribeSync("user.registered")
	check(t, err)
	check(t, conn.Flush())
	signUp(t, a)
	m, err := sub.NextMsg(patience)
	check(t, err)
	check(t, testauthd.EventAsDescribed(m.Subject, m.Header, m.Data))
	for name, change := range map[string]func(*nats.Msg){
		"another member":   func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, []byte("{"), []byte(`{"role":"admin",`), 1) },
		"a member less":    func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, []byte(`"userId":1,`), nil, 1) },
		"another type":     func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, []byte(`"userId":1`), []byte(`"userId":"1"`), 1) },
		"a local time":     func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, []byte(`Z"`), []byte(`+00:00"`), 1) },
		"an unknown event": func(m *nats.Msg) { m.Subject = "user.seen" },
		"of another type":  func(m *nats.Msg) { m.Header.Set("ce-type", "user.updated") },
		"a header less":    func(m *nats.Msg) { delete(m.Header, "ce-time") },
		"no time":          func(m *nats.Msg) { m.Header.Set("ce-time", "Z") },
		"another UUID":     func(m *nats.Msg) { m.Header.Set("ce-id", "00000000-0000-4000-8000-000000000000") },
	} {
		changed := nats.Msg{Subject: m.Subject, Header: nats.Header(http.Header(m.Header).Clone()), Data: slices.Clone(m.Data)}
		change(&changed)
		if testauthd.EventAsDescribed(changed.Subject, changed.Header, changed.Data) == nil {
			t.Errorf("%s is let pass", name)
		}
	}
}

// The page loads all it needs from the binary, and its policy lets it.
func TestThePageIsComplete(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--docs=public")
	page := a.get(t, "/docs", "")
	page.has(t, map[string]string{
		"Content-Type":  "text/html; charset=utf-8",
		"Cache-Control": "public, max-age=300",
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
			"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options": "nosniff",
	})
	html := page.Answer.Body
	if regexp.MustCompile(`(?i)<script>|<style|\son\w+=|//`).MatchString(html) {
		t.Errorf("the page has something inline or from elsewhere:\n%s", html)
	}
	kinds := map[string]string{"js": "text/javascript", "css": "text/css", "png": "image/png", "json": "application/json"}
	files := 0
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*\.(\w+))"`).FindAllStringSubmatch(html, -1) {
		files++
		for _, header := range []map[string][]string{nil, {"Accept-Encoding": {"identity"}}} {
			e := a.do(t, "GET /"+m[1], header, "")
			kind, _, err := mime.ParseMediaType(e.Answer.header("Content-Type"))
			if e.Answer.Status != 200 || kind != kinds[m[2]] || err != nil || e.Answer.Body == "" || e.Answer.header("Cache-Control") != "public, max-age=300" {
				t.Errorf("%s: %d %q, %v", m[1], e.Answer.Status, e.Answer.Header, err)
			}
		}
	}
	if files < 6 {
		t.Errorf("the page has %d files", files)
	}
	if got := a.get(t, "/openapi.json", "").Answer.Body; got != string(docs.OpenAPI) {
		t.Error("/openapi.json is another document")
	}
	if got := a.get(t, "/asyncapi.json", "").Answer.Body; got != string(docs.AsyncAPI) {
		t.Error("/asyncapi.json is another document")
	}
	a.get(t, "/docs/swagger-ui.css.gz", "").refused(t, 404, "not_found", "")
	a.get(t, "/docs/", "").refused(t, 404, "not_found", "")
}

func (m message) header(name string) string { return http.Header(m.Header).Get(name) }
