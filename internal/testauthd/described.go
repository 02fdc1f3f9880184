package testauthd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	validation "github.com/pb33f/libopenapi-validator/config"
	faults "github.com/pb33f/libopenapi-validator/errors"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/zyotra/auth/docs"
)

// openAPI compiles the document once for all tests.
var openAPI = sync.OnceValues(func() (*httpSchemas, error) {
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
	return &httpSchemas{v, problem}, err
})

type httpSchemas struct {
	validator.Validator
	problem *jsonschema.Schema
}

// AsDescribed returns an error if an exchange over HTTP differs from openapi.json: an answer with
// another status, header or member, a request that was accepted although the document forbids it,
// or refused for its form although the document allows it.
func (e Exchange) AsDescribed() error {
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

// mayBeMissing matches the paths of operations that answer 404 themselves.
var mayBeMissing = regexp.MustCompile(`^/(sessions|docs)/[^/]+$`)

// refusedForItsForm matches refusals of requests that a schema can describe.
var refusedForItsForm = regexp.MustCompile(`"reason":"(unknown_member|wrong_type)"`)

func (e Exchange) differs(what string, wrong []*faults.ValidationError) error {
	var all []string
	for _, w := range wrong {
		all = append(all, w.Message+": "+w.Reason)
		for _, s := range w.SchemaValidationErrors {
			all = append(all, s.FieldPath+": "+s.Reason)
		}
	}
	return fmt.Errorf("%s: the %s is not as in openapi.json: %d %.300s\n%s", e.Request.To, what, e.Answer.Status, e.Answer.Body, strings.Join(all, "\n"))
}

func (e Exchange) isProblem(schema *jsonschema.Schema) error {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(e.Answer.Body))
	if err != nil {
		return fmt.Errorf("%s: %w", e.Request.To, err)
	}
	if kind := e.Answer.Header["Content-Type"]; !slices.Equal(kind, []string{"application/problem+json"}) {
		return fmt.Errorf("%s: %d of type %q", e.Request.To, e.Answer.Status, kind)
	}
	return schema.Validate(value)
}

// EventAsDescribed returns an error if the headers or the data of an event differ from
// asyncapi.json.
func EventAsDescribed(subject string, header nats.Header, data []byte) error {
	all, err := AsyncAPIEvents()
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
	if err := errors.Join(d.Headers.Validate(single), d.Payload.Validate(value)); err != nil {
		return fmt.Errorf("%s: %s is not as in asyncapi.json: %w", subject, data, err)
	}
	return nil
}

// EventSchema is an operation of asyncapi.json that sends. It has the name of its channel
// and of its message.
type EventSchema struct {
	Roles            []string
	Headers, Payload *jsonschema.Schema
}

// AsyncAPIEvents reads the operations that send, by their subjects, once for all tests.
var AsyncAPIEvents = sync.OnceValues(func() (map[string]EventSchema, error) {
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
	all := map[string]EventSchema{}
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
		all[d.Channels[id].Address] = EventSchema{op.Roles, headers, payload}
	}
	return all, nil
})
