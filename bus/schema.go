package bus

import (
	"encoding/json"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"
)

// The keys of an endpoint's metadata.
const (
	metaRequest  = "request_schema"  // JSON Schema (2020-12) of the request
	metaResponse = "response_schema" // JSON Schema (2020-12) of the reply
	metaBearer   = "authorization"   // "Bearer" if the subject reads the header Authorization
)

// describe returns the metadata of a subject, derived from its types.
func describe[Req, Resp any]() (map[string]string, error) {
	request, err := schema[Req]()
	if err != nil {
		return nil, err
	}
	response, err := schema[Resp]()
	if err != nil {
		return nil, err
	}
	metadata := map[string]string{metaRequest: request, metaResponse: response}
	if _, ok := any(new(Req)).(bearer); ok {
		metadata[metaBearer] = "Bearer"
	}
	return metadata, nil
}

func schema[T any]() (string, error) {
	s, err := jsonschema.For[T](nil)
	if err != nil {
		return "", err
	}
	withoutNull(s)
	text, err := json.Marshal(s)
	return string(text), err
}

// withoutNull removes null from the types of slices and pointers: the service neither reads nor sends it.
func withoutNull(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	s.Types = slices.DeleteFunc(s.Types, func(t string) bool { return t == "null" })
	if len(s.Types) == 1 {
		s.Type, s.Types = s.Types[0], nil
	}
	withoutNull(s.Items)
	for _, p := range s.Properties {
		withoutNull(p)
	}
}
