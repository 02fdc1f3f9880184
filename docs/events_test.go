package docs_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/zyotra/auth/docs"
	"github.com/zyotra/auth/events"
)

// told are the events there are.
var told = []events.Data{
	events.UserRegistered{}, events.UserUpdated{}, events.UserPasswordChanged{},
	events.UserEmailVerified{}, events.UserEmailChanged{},
	events.UserDisabled{}, events.UserEnabled{}, events.UserLocked{}, events.UserDeleted{},
	events.SessionCreated{}, events.SessionRevoked{},
	events.KeyRotated{},
}

// schema is a JSON Schema as our tests look at it.
type schema struct {
	Title                string
	Description          string
	Type                 string
	Format               string
	Required             []string
	Properties           map[string]schema
	AdditionalProperties *bool
	Items                *schema
	Enum                 []string
	Examples             []any
}

func eventSchema(t *testing.T, kind string) (text []byte, s schema) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("events", kind+".json"))
	check(t, err)
	check(t, json.Unmarshal(text, &s))
	return text, s
}

// There is a schema and a channel for each event, and none besides.
func TestEveryEventIsDescribed(t *testing.T) {
	t.Parallel()
	var listed []string
	for _, d := range told {
		listed = append(listed, d.Type())
	}
	slices.Sort(listed)
	files, err := filepath.Glob(filepath.Join("events", "*"))
	check(t, err)
	var described []string
	for _, f := range files {
		described = append(described, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	var sent []string
	for _, m := range asyncAPIEvents(t) {
		sent = append(sent, m.address)
	}
	slices.Sort(sent)
	for where, got := range map[string][]string{"package events": eventTypes(t), "docs/events": described, "asyncapi.json": sent} {
		if !slices.Equal(got, listed) {
			t.Errorf("%s has %q\nthis test has %q", where, got, listed)
		}
	}
}

// eventTypes are what the methods Type in package events return, but for that of mails, which
// are not for everybody to hear.
func eventTypes(t *testing.T) (types []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "events", "*.go"))
	check(t, err)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		check(t, err)
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Name.Name == "Type" && fn.Recv != nil {
				literal, ok := fn.Body.List[0].(*ast.ReturnStmt).Results[0].(*ast.BasicLit)
				if !ok {
					continue // MailType, which nobody else hears
				}
				kind, err := strconv.Unquote(literal.Value)
				check(t, err)
				types = append(types, kind)
			}
		}
	}
	slices.Sort(types)
	return types
}

// sentMessage is an operation of asyncapi.json that sends.
type sentMessage struct{ address, component string }

// asyncAPIEvents follows the operations that send events to their channels and messages.
func asyncAPIEvents(t *testing.T) (all []sentMessage) {
	t.Helper()
	type ref struct {
		Ref string `json:"$ref"`
	}
	var d struct {
		Channels map[string]struct {
			Address  string
			Messages map[string]ref
		}
		Operations map[string]struct {
			Action   string
			Channel  ref
			Messages []ref
		}
		Components struct {
			Messages map[string]struct{ Payload ref }
		}
	}
	check(t, json.Unmarshal(docs.AsyncAPI, &d))
	for id, op := range d.Operations {
		if op.Action != "send" {
			continue
		}
		channel := d.Channels[strings.TrimPrefix(op.Channel.Ref, "#/channels/")]
		if want := []ref{{op.Channel.Ref + "/messages/event"}}; !slices.Equal(op.Messages, want) || len(channel.Messages) != 1 {
			t.Errorf("%s sends %v of %v", id, op.Messages, channel.Messages)
		}
		if channel.Address == events.MailType {
			continue
		}
		message := d.Components.Messages[strings.TrimPrefix(channel.Messages["event"].Ref, "#/components/messages/")]
		all = append(all, sentMessage{channel.Address, strings.TrimPrefix(message.Payload.Ref, "#/components/schemas/")})
	}
	return all
}

// A schema is the same in its file and in asyncapi.json, where it is named as in Go.
func TestEventSchemasAreTheSameInAsyncAPI(t *testing.T) {
	t.Parallel()
	var d struct {
		Components struct{ Schemas map[string]any }
	}
	check(t, json.Unmarshal(docs.AsyncAPI, &d))
	components := map[string]string{}
	for _, m := range asyncAPIEvents(t) {
		components[m.address] = m.component
	}
	for _, data := range told {
		text, s := eventSchema(t, data.Type())
		var file map[string]any
		check(t, json.Unmarshal(text, &file))
		if file["$schema"] != "https://json-schema.org/draft/2020-12/schema" || s.Title != data.Type() {
			t.Errorf("%s is %q by %v", data.Type(), s.Title, file["$schema"])
		}
		delete(file, "$schema") // AsyncAPI has its own
		name := reflect.TypeOf(data).Name()
		if components[data.Type()] != name || !reflect.DeepEqual(d.Components.Schemas[name], any(file)) {
			t.Errorf("%s: the schema in asyncapi.json is %s\n%v\nin docs/events it is\n%v", data.Type(), components[data.Type()], d.Components.Schemas[name], file)
		}
	}
}

func TestEventSchemasFollowTheGoTypes(t *testing.T) {
	t.Parallel()
	for _, data := range told {
		_, s := eventSchema(t, data.Type())
		follows(t, data.Type(), s, reflect.TypeOf(data))
	}
}

// follows compares a schema with the type whose JSON it is for.
func follows(t *testing.T, path string, s schema, typ reflect.Type) {
	t.Helper()
	if s.Description == "" && !strings.HasSuffix(path, "[]") {
		t.Errorf("%s has no description", path)
	}
	want := map[reflect.Kind]string{reflect.String: "string", reflect.Int64: "integer", reflect.Slice: "array", reflect.Struct: "object"}[typ.Kind()]
	if typ == reflect.TypeFor[time.Time]() {
		if want = "string"; s.Format != "date-time" {
			t.Errorf("%s has the format %q", path, s.Format)
		}
	}
	if s.Type != want {
		t.Errorf("%s is %q, want %q", path, s.Type, want)
		return
	}
	switch want {
	case "array":
		if s.Items == nil {
			t.Errorf("%s may hold anything", path)
			return
		}
		follows(t, path+"[]", *s.Items, typ.Elem())
	case "object":
		var all, required []string
		for i := range typ.NumField() {
			name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			all = append(all, name)
			if options == "" {
				required = append(required, name)
			}
			follows(t, path+"."+name, s.Properties[name], typ.Field(i).Type)
		}
		slices.Sort(all)
		if got := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(got, all) {
			t.Errorf("%s has %q, want %q", path, got, all)
		}
		if !slices.Equal(s.Required, required) { // in the order of the struct
			t.Errorf("%s requires %q, want %q", path, s.Required, required)
		}
		if s.AdditionalProperties == nil || *s.AdditionalProperties {
			t.Errorf("%s may have other members", path)
		}
	}
}

func TestEventSchemasListTheReasons(t *testing.T) {
	t.Parallel()
	_, s := eventSchema(t, "session.revoked")
	got := s.Properties["reason"].Enum
	slices.Sort(got)
	if want := constants(t, "session.go", "Reason"); !slices.Equal(got, want) {
		t.Errorf("reasons %q\nsession.go has %q", got, want)
	}
}

func TestEventExamplesAreRight(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	for _, data := range told {
		text, s := eventSchema(t, data.Type())
		check(t, compiler.AddResource(data.Type(), unmarshal(t, text)))
		compiled, err := compiler.Compile(data.Type())
		check(t, err)
		if len(s.Examples) == 0 {
			t.Errorf("%s has no example", data.Type())
		}
		for _, e := range unmarshal(t, text).(map[string]any)["examples"].([]any) {
			if err := compiled.Validate(e); err != nil {
				t.Errorf("%s: %v", data.Type(), err)
			}
		}
	}
}

// A mail is described in asyncapi.json alone.
func TestMailSchemaFollowsTheGoType(t *testing.T) {
	t.Parallel()
	var d struct {
		Components struct{ Schemas map[string]schema }
	}
	check(t, json.Unmarshal(docs.AsyncAPI, &d))
	follows(t, events.MailType, d.Components.Schemas["Mail"], reflect.TypeFor[events.Mail]())
}
