package docs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/helpers"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/zyotra/auth/docs"
	"github.com/zyotra/auth/internal/testtool"
)

func openAPI(t *testing.T) validator.Validator {
	t.Helper()
	document, err := libopenapi.NewDocument(docs.OpenAPI)
	check(t, err)
	v, errs := validator.NewValidator(document, config.WithFormatAssertions())
	check(t, errors.Join(errs...))
	return v
}

func TestOpenAPIFollowsItsSpecification(t *testing.T) {
	t.Parallel()
	if ok, faults := openAPI(t).ValidateDocument(); !ok {
		for _, f := range faults {
			t.Error(f)
			for _, s := range f.SchemaValidationErrors {
				t.Errorf("%s: %s", s.FieldPath, s.Reason)
			}
		}
	}
}

// asyncAPISchemas is the package in which the AsyncAPI project publishes its schemas. There
// is none for Go.
const asyncAPISchemas = "@asyncapi/specs@6.11.1"

func TestAsyncAPIFollowsItsSpecification(t *testing.T) {
	t.Parallel()
	schema := fromNPM(t, asyncAPISchemas, "package/schemas/3.0.0.json")
	compiler := jsonschema.NewCompiler()
	check(t, compiler.AddResource("https://asyncapi.test/3.0.0.json", unmarshal(t, schema)))
	compiled, err := compiler.Compile("https://asyncapi.test/3.0.0.json")
	check(t, err)
	check(t, compiled.Validate(unmarshal(t, docs.AsyncAPI)))
}

// fromNPM returns a file of a package of the npm registry.
func fromNPM(t *testing.T, name, file string) []byte {
	t.Helper()
	npm := testtool.Find(t, "npm", "npm")
	dir := t.TempDir()
	cmd := exec.Command(npm, "pack", "--silent", "--prefer-offline", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm pack %s: %v\n%s", name, err, out)
	}
	packed, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	check(t, err)
	if len(packed) != 1 {
		t.Fatalf("npm pack %s made %q", name, packed)
	}
	content, err := os.ReadFile(packed[0])
	check(t, err)
	unzipped, err := gzip.NewReader(bytes.NewReader(content))
	check(t, err)
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("%s in %s: %v", file, name, err)
		}
		if header.Name == file {
			content, err := io.ReadAll(archive)
			check(t, err)
			return content
		}
	}
}

func TestDocumentsListTheErrorCodes(t *testing.T) {
	t.Parallel()
	want := constants(t, "error.go", "Code")
	for name, document := range map[string][]byte{"openapi.json": docs.OpenAPI, "asyncapi.json": docs.AsyncAPI} {
		var d struct {
			Components struct {
				Schemas struct{ Code struct{ Enum []string } }
			}
		}
		check(t, json.Unmarshal(document, &d))
		got := d.Components.Schemas.Code.Enum
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: codes %q\nerror.go has %q", name, got, want)
		}
	}
}

// constants are those of a type, in a file of the root package.
func constants(t *testing.T, name, of string) (values []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", name), nil, 0)
	check(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == of {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			check(t, err)
			values = append(values, value)
		}
		return false
	})
	slices.Sort(values)
	return values
}

// Examples are what people copy: each is sent to the validator as a request or an answer.
func TestOpenAPIExamplesAreRight(t *testing.T) {
	t.Parallel()
	v := openAPI(t)
	n := 0
	for path, item := range openAPIPaths(t) {
		for method, op := range item {
			for _, e := range op.RequestBody.examples() {
				n++
				r := request(t, method, path, e)
				if ok, faults := v.GetRequestBodyValidator().ValidateRequestBody(r); !ok {
					t.Errorf("%s %s: %s\n%v", method, path, e.value, faults)
				}
			}
			for status, answer := range op.Responses {
				for _, e := range answer.examples() {
					n++
					code, err := strconv.Atoi(status)
					check(t, err)
					resp := &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {e.media}}, Body: io.NopCloser(bytes.NewReader(e.value))}
					if ok, faults := v.GetResponseBodyValidator().ValidateResponseBody(request(t, method, path, example{}), resp); !ok {
						for _, f := range faults {
							if f.ValidationSubType != helpers.ParameterValidationHeader { // examples are bodies alone
								t.Errorf("%s %s %s: %s\n%v", method, path, status, e.value, f)
							}
						}
					}
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("%d examples", n)
	}
}

type example struct {
	media string
	value json.RawMessage
}

type operation struct {
	RequestBody body
	Responses   map[string]body
}

type body struct {
	Ref     string `json:"$ref"`
	Content map[string]struct {
		Examples map[string]struct{ Value json.RawMessage }
	}
}

func (b body) examples() (all []example) {
	for media, content := range b.Content {
		for _, e := range content.Examples {
			all = append(all, example{media, e.Value})
		}
	}
	return all
}

// openAPIPaths are the operations, their answers in place.
func openAPIPaths(t *testing.T) map[string]map[string]operation {
	t.Helper()
	var d struct {
		Paths      map[string]map[string]operation
		Components struct{ Responses map[string]body }
	}
	check(t, json.Unmarshal(docs.OpenAPI, &d))
	for _, item := range d.Paths {
		for _, op := range item {
			for status, answer := range op.Responses {
				if name, ok := strings.CutPrefix(answer.Ref, "#/components/responses/"); ok {
					op.Responses[status] = d.Components.Responses[name]
				}
			}
		}
	}
	return d.Paths
}

func request(t *testing.T, method, path string, e example) *http.Request {
	t.Helper()
	r, err := http.NewRequest(strings.ToUpper(method), "http://localhost"+strings.NewReplacer("{id}", "x", "{file}", "x").Replace(path), bytes.NewReader(e.value))
	check(t, err)
	if e.media != "" {
		r.Header.Set("Content-Type", e.media)
	}
	return r
}

func TestAsyncAPIExamplesAreRight(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	check(t, compiler.AddResource("asyncapi.json", unmarshal(t, docs.AsyncAPI)))
	var d struct {
		Components struct {
			Messages map[string]struct{ Examples []map[string]any }
		}
	}
	check(t, json.Unmarshal(docs.AsyncAPI, &d))
	for name, m := range d.Components.Messages {
		if len(m.Examples) == 0 {
			t.Errorf("%s has no example", name)
		}
		for _, e := range m.Examples {
			for part, value := range e {
				schema, err := compiler.Compile("asyncapi.json#/components/messages/" + name + "/" + part)
				check(t, err)
				if err := schema.Validate(value); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func unmarshal(t *testing.T, text []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	check(t, err)
	return value
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
