// Package strictjson reads requests and writes replies. It reads what the types document and
// nothing else: unknown, duplicate, case-folded and wrongly typed members, null, invalid UTF-8, lone
// surrogates, U+0000, and anything before or after the one value are refused, never repaired.
//
// It is encoding/json/v2 in its published module, which is the standard library's own
// from Go 1.27 on, with the options that RFC 8259 §4 and RFC 7493 (I-JSON) ask for.
package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/zyotra/auth"
)

// Reasons given for a member at fault.
const (
	ReasonUnknown   = "unknown_member"
	ReasonDuplicate = "duplicate_member"
	ReasonType      = "wrong_type"
	ReasonUnicode   = "not_unicode"
	ReasonNUL       = "nul_character"
	ReasonSyntax    = "syntax"
)

// maxNameBytes bounds what is repeated of a member's name that the sender chose.
const maxNameBytes = 64

var errNull = errors.New("null is not a value here")

// noUnknown refuses members that the type does not have. Deep nesting needs no rule: no type nests
// deeper than its documented members.
var noUnknown = json.RejectUnknownMembers(true)

// noNull refuses null, which the decoder would read as "leave it alone".
var noNull = json.WithUnmarshalers(json.UnmarshalFromFunc(func(d *jsontext.Decoder, _ any) error {
	if d.PeekKind() == 'n' {
		return errNull
	}
	return errors.ErrUnsupported // go on as usual
}))

// decode is json.Unmarshal without null.
func decode(data []byte, v any, o json.Options) error {
	if bytes.Contains(data, []byte("null")) { // asking at each value takes time
		o = json.JoinOptions(o, noNull)
	}
	return json.Unmarshal(data, v, o)
}

// Unmarshal reads the one JSON value in data into v, a pointer to a struct. It returns an
// auth.CodeMalformed error that names the member at fault; v is then not to be used.
// More than auth.MaxRequestBytes is auth.ErrPayloadTooLarge.
func Unmarshal(data []byte, v any) error {
	if len(data) > auth.MaxRequestBytes {
		return auth.ErrPayloadTooLarge
	}
	if err := decode(data, v, noUnknown); err != nil {
		return malformed(data, err)
	}
	return refuseNUL(data)
}

// refuseNUL refuses U+0000 in any string: Postgres stores none, and no member has a use for it.
func refuseNUL(data []byte) error {
	if !bytes.Contains(data, []byte(`\u0000`)) { // an unescaped one is not JSON
		return nil
	}
	for d := jsontext.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.ReadToken()
		if err != nil {
			return nil // the end; the syntax was right
		}
		if token.Kind() == '"' && strings.ContainsRune(token.String(), 0) {
			return at(d.StackPointer(), ReasonNUL)
		}
	}
}

// Take reads one member of the object in data into v, and returns the object without it. An
// object that has no such member comes back as it is. The errors are those of Unmarshal.
func Take(data []byte, member string, v any) (rest []byte, err error) {
	var members map[string]jsontext.Value
	if err := Unmarshal(data, &members); err != nil {
		return nil, err
	}
	value, ok := members[member]
	if !ok {
		return data, nil
	}
	if err := decode(value, v, noUnknown); err != nil {
		return nil, at(jsontext.Pointer("/"+member), ReasonType)
	}
	delete(members, member)
	return json.Marshal(members)
}

// UnmarshalKnown is Unmarshal, but passes over members that v's type does not have: for
// what newer versions of ourselves may have written more into.
func UnmarshalKnown(data []byte, v any) error {
	if err := decode(data, v, json.RejectUnknownMembers(false)); err != nil {
		return malformed(data, err)
	}
	return nil
}

// Marshal writes a reply: as encoding/json does, but for nil slices, which are empty ones.
func Marshal(v any) ([]byte, error) {
	return json.Marshal(v, html)
}

// html has <, > and & written so that a reply does no harm where it is pasted into a page.
var html = jsontext.EscapeForHTML(true)

// malformed tells the sender which member is at fault.
func malformed(data []byte, err error) error {
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		return at(syntactic.JSONPointer, syntaxReason(data, syntactic.Err))
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return at(semantic.JSONPointer, typeReason(semantic.Err))
	}
	return fmt.Errorf("%w: %w", auth.ErrMalformed, err)
}

func at(p jsontext.Pointer, reason string) error {
	return auth.ErrMalformed.With(auth.Field{Field: path(p), Reason: reason})
}

func syntaxReason(data []byte, err error) string {
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return ReasonDuplicate
	case !utf8.Valid(data):
		return ReasonUnicode
	}
	return ReasonSyntax
}

func typeReason(err error) string {
	if errors.Is(err, json.ErrUnknownName) {
		return ReasonUnknown
	}
	return ReasonType
}

// path writes a JSON Pointer the way people name members: client.ip. What the sender
// chose is cut and cleaned before it is repeated.
func path(p jsontext.Pointer) string {
	var parts []string
	for token := range p.Tokens() {
		parts = append(parts, token)
	}
	clean := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.Join(parts, "."))
	if len(clean) <= maxNameBytes {
		return clean
	}
	clean = clean[:maxNameBytes]
	for !utf8.ValidString(clean) {
		clean = clean[:len(clean)-1]
	}
	return clean + "…"
}
