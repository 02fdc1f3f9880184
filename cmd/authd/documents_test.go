package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	validation "github.com/pb33f/libopenapi-validator/config"
	faults "github.com/pb33f/libopenapi-validator/errors"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/docs"
	"github.com/zyotra/auth/events"
)

// openAPI is the document, made ready once for all tests.
var openAPI = sync.OnceValues(func() (*describedHTTP, error) {
	document, err := libopenapi.NewDocument(docs.OpenAPI)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(document, validation.WithFormatAssertions())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(docs.OpenAPI))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openapi.json", value); err != nil {
		return nil, err
	}
	problem, err := compiler.Compile("openapi.json#/components/schemas/Problem")
	return &describedHTTP{v, problem}, err
})

type describedHTTP struct {
	validator.Validator
	problem *jsonschema.Schema
}

// asDescribed returns an error if an exchange over HTTP is not what openapi.json says: an
// answer with another status, header or member, a request that was accepted although it must
// not be, or refused for its form although it may be sent.
func (e exchange) asDescribed() error {
	d, err := openAPI()
	if err != nil {
		return err
	}
	method, path, _ := strings.Cut(e.Request.To, " ")
	request := func() *http.Request {
		r, _ := http.NewRequest(method, "http://localhost"+path, strings.NewReader(e.Request.Body)) // it was sent once
		r.Header = e.Request.Header
		if r.Header == nil {
			r.Header = http.Header{}
		}
		return r
	}
	response := &http.Response{StatusCode: e.Answer.Status, Header: e.Answer.Header, Body: io.NopCloser(strings.NewReader(e.Answer.Body))}
	switch {
	case method == http.MethodHead || method == http.MethodOptions:
		return nil // as HTTP itself says
	case e.Answer.Status == http.StatusNotFound && !mayBeMissing.MatchString(path),
		e.Answer.Status == http.StatusMethodNotAllowed,
		e.Answer.Status == http.StatusBadRequest && method == "BREW",
		e.Answer.Status == http.StatusRequestHeaderFieldsTooLarge,
		strings.HasPrefix(path, "/verify/") && e.Answer.Status >= 400:
		return e.isProblem(d.problem) // of no operation
	}
	if ok, wrong := d.ValidateHttpResponse(request(), response); !ok {
		return e.differs("answer", wrong)
	}
	ok, wrong := d.ValidateHttpRequestSync(request())
	switch {
	case e.Answer.Status < 400 && !ok:
		return e.differs("accepted request", wrong)
	case ok && refusedForItsForm.MatchString(e.Answer.Body) && !strings.Contains(path, "?"): // OpenAPI has no words for unknown queries
		return fmt.Errorf("%s %s: %s\nopenapi.json allows the request", e.Request.To, e.Request.Body, e.Answer.Body)
	}
	return nil
}

// mayBeMissing are the paths of operations that answer 404 themselves.
var mayBeMissing = regexp.MustCompile(`^/(sessions|docs)/[^/]+$`)

// refusedForItsForm are refusals of what a schema can tell.
var refusedForItsForm = regexp.MustCompile(`"reason":"(unknown_member|wrong_type)"`)

func (e exchange) differs(what string, wrong []*faults.ValidationError) error {
	var all []string
	for _, w := range wrong {
		all = append(all, w.Message+": "+w.Reason)
		for _, s := range w.SchemaValidationErrors {
			all = append(all, s.FieldPath+": "+s.Reason)
		}
	}
	return fmt.Errorf("%s: the %s is not as in openapi.json: %d %.300s\n%s", e.Request.To, what, e.Answer.Status, e.Answer.Body, strings.Join(all, "\n"))
}

func (e exchange) isProblem(schema *jsonschema.Schema) error {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(e.Answer.Body))
	if err != nil {
		return fmt.Errorf("%s: %w", e.Request.To, err)
	}
	if kind := e.Answer.Header["Content-Type"]; !slices.Equal(kind, []string{"application/problem+json"}) {
		return fmt.Errorf("%s: %d of type %q", e.Request.To, e.Answer.Status, kind)
	}
	return schema.Validate(value)
}

// The document is not so lax that it lets everything pass.
func TestADifferenceFromOpenAPIIsNoticed(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	signUp(t, a)
	login := a.post(t, "/login", credentials)
	check(t, login.asDescribed())
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
		if changed.asDescribed() == nil {
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
	all, err := asyncAPIEvents()
	check(t, err)
	for subject, d := range all {
		want := rolesThatMay(subject, func(r embedded.Role) embedded.Subjects { return r.Subscribe })
		if subject == events.MailType && want == nil { // it is taken from the queue, beside those who keep it
			want = []string{embedded.Mailer}
		}
		if !slices.Equal(d.roles, want) {
			t.Errorf("%s: roles %q, want %q", subject, d.roles, want)
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

// eventAsDescribed returns an error if headers and data of an event are not what
// asyncapi.json says.
func eventAsDescribed(subject string, header nats.Header, data []byte) error {
	all, err := asyncAPIEvents()
	if err != nil {
		return err
	}
	d, known := all[subject]
	if !known {
		return fmt.Errorf("%s is not in asyncapi.json", subject)
	}
	single := map[string]any{}
	for name, values := range header {
		single[name] = strings.Join(values, ", ")
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	if err := errors.Join(d.headers.Validate(single), d.payload.Validate(value)); err != nil {
		return fmt.Errorf("%s: %s is not as in asyncapi.json: %w", subject, data, err)
	}
	return nil
}

// describedEvent is an operation of asyncapi.json that sends. It has the name of its channel
// and of its message.
type describedEvent struct {
	roles            []string
	headers, payload *jsonschema.Schema
}

// asyncAPIEvents reads the operations that send, by their subjects, once for all tests.
var asyncAPIEvents = sync.OnceValues(func() (map[string]describedEvent, error) {
	var d struct {
		Channels   map[string]struct{ Address string }
		Operations map[string]struct {
			Action string
			Roles  []string `json:"x-roles"`
		}
	}
	if err := json.Unmarshal(docs.AsyncAPI, &d); err != nil {
		return nil, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(docs.AsyncAPI))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("asyncapi.json", value); err != nil {
		return nil, err
	}
	all := map[string]describedEvent{}
	for id, op := range d.Operations {
		if op.Action != "send" {
			continue
		}
		headers, err := compiler.Compile("asyncapi.json#/components/messages/" + id + "/headers")
		if err != nil {
			return nil, err
		}
		payload, err := compiler.Compile("asyncapi.json#/components/messages/" + id + "/payload")
		if err != nil {
			return nil, err
		}
		all[d.Channels[id].Address] = describedEvent{op.Roles, headers, payload}
	}
	return all, nil
})

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
	check(t, eventAsDescribed(m.Subject, m.Header, m.Data))
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
		if eventAsDescribed(changed.Subject, changed.Header, changed.Data) == nil {
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
