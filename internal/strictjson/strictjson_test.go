package strictjson_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
)

func TestRefusesAndNamesTheMember(t *testing.T) {
	for _, tt := range []struct{ name, in, field, reason string }{
		{"empty", ``, "", "syntax"},
		{"not an object", `[]`, "", "wrong_type"},
		{"null", `null`, "", "wrong_type"},
		{"two values", `{} {}`, "", "syntax"},
		{"cut off", `{"email":"a"`, "", "syntax"},
		{"unknown", `{"role":"admin"}`, "role", "unknown_member"},
		{"unknown inside", `{"client":{"port":1}}`, "client.port", "unknown_member"},
		{"other letter case", `{"Email":"a"}`, "Email", "unknown_member"},
		{"twice", `{"email":"a","email":"b"}`, "email", "duplicate_member"},
		{"twice, escaped", `{"email":"a","\u0065mail":"b"}`, "email", "duplicate_member"},
		{"number for string", `{"email":1}`, "email", "wrong_type"},
		{"string for object", `{"client":"1.2.3.4"}`, "client", "wrong_type"},
		{"null member", `{"email":null}`, "email", "wrong_type"},
		{"null object", `{"client":null}`, "client", "wrong_type"},
		{"lone surrogate", `{"email":"\ud800"}`, "email", "syntax"},
		{"invalid UTF-8", "{\"email\":\"a\xffb\"}", "email", "not_unicode"},
		{"NUL", `{"email":"a","name":"b\u0000"}`, "name", "nul_character"},
		{"NUL inside", `{"client":{"ip":"\u0000"}}`, "client.ip", "nul_character"},
		{"deep nesting", `{"client":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`, "client", "wrong_type"},
		{"control characters in a name", "{\"a\\u0000\\nb\":1}", "a??b", "unknown_member"},
		{"a long name", `{"` + strings.Repeat("ä", 100) + `":1}`, strings.Repeat("ä", 32) + "…", "unknown_member"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var req auth.RegisterRequest
			err := strictjson.Unmarshal([]byte(tt.in), &req)
			if !errors.Is(err, auth.ErrMalformed) {
				t.Fatalf("got %v, want %v", err, auth.ErrMalformed)
			}
			want := []auth.Field{{Field: tt.field, Reason: tt.reason}}
			if got := auth.Public(err).Fields; !reflect.DeepEqual(got, want) {
				t.Errorf("fields %v, want %v", got, want)
			}
		})
	}
}

func TestReadsWhatIsDocumented(t *testing.T) {
	var req auth.RegisterRequest
	err := strictjson.Unmarshal([]byte(` {"email":"a\u0040b","name":"\\u0000","password":"\ud83d\ude00","client":{"ip":"::1"}} `), &req)
	if err != nil {
		t.Fatal(err)
	}
	if req.Email != "a@b" || req.Password != "😀" || req.Name != `\u0000` || req.Client.IP != "::1" {
		t.Errorf("read %+v", req)
	}
}

func TestTooLarge(t *testing.T) {
	err := strictjson.Unmarshal(make([]byte, auth.MaxRequestBytes+1), &auth.LoginRequest{})
	if !errors.Is(err, auth.ErrPayloadTooLarge) {
		t.Errorf("got %v, want %v", err, auth.ErrPayloadTooLarge)
	}
}

func TestKnownMembersOnly(t *testing.T) {
	var v struct {
		A int `json:"a"`
	}
	if err := strictjson.UnmarshalKnown([]byte(`{"b":[null],"a":1}`), &v); err != nil || v.A != 1 {
		t.Errorf("read %+v, %v", v, err)
	}
	if err := strictjson.UnmarshalKnown([]byte(`{"a":1,"a":2}`), &v); !errors.Is(err, auth.ErrMalformed) {
		t.Errorf("duplicates: got %v", err)
	}
}

// What is read is what a lenient decoder reads too, and refusals are always malformed_request.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"email":"a@b.c","password":"p","client":{"ip":"1.2.3.4","userAgent":"x"}}`))
	f.Add([]byte(`{"email":"a","email":"b"}`))
	f.Add([]byte(`{"password":"\ud800"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, lenient auth.LoginRequest
		err := strictjson.Unmarshal(data, &strict)
		if err != nil {
			if !errors.Is(err, auth.ErrMalformed) && !errors.Is(err, auth.ErrPayloadTooLarge) {
				t.Fatalf("undocumented error %v", err)
			}
			return
		}
		if err := json.Unmarshal(data, &lenient); err != nil {
			t.Fatalf("%q is read, though it is not JSON: %v", data, err)
		}
		if !reflect.DeepEqual(strict, lenient) {
			t.Fatalf("%q is read as %+v, others read %+v", data, strict, lenient)
		}
	})
}
