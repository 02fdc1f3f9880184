package jsonl_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zyotra/auth/internal/jsonl"
)

const whole = `{"id":7,"email":"a@example.com","name":"Ada","password":"$2b$","createdAt":"2024-05-06T07:08:09.123456Z","updatedAt":"2024-05-06T09:08:09+02:00"}`

// told is what a Reader makes of a text, a line each.
func told(t *testing.T, in io.Reader) (out []string) {
	t.Helper()
	r := jsonl.NewReader(in)
	for {
		a, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return out
		case errors.Is(err, jsonl.ErrMalformed):
			out = append(out, fmt.Sprintf("%d malformed", r.Line()))
		case err != nil:
			t.Fatal(err)
		case a.ID == nil:
			out = append(out, fmt.Sprintf("%d - %q", r.Line(), a.Email))
		default:
			out = append(out, fmt.Sprintf("%d %d %q", r.Line(), *a.ID, a.Email))
		}
	}
}

func TestReaderGivesEveryMember(t *testing.T) {
	a, err := jsonl.NewReader(strings.NewReader(whole)).Next()
	if err != nil {
		t.Fatal(err)
	}
	if *a.ID != 7 || a.Email != "a@example.com" || a.Name != "Ada" || a.Password != "$2b$" ||
		a.CreatedAt.UnixMicro() != 1714979289123456 || a.UpdatedAt.Unix() != 1714979289 {
		t.Errorf("got %+v", a)
	}
}

func TestReaderTakesDocumentedMembersAlone(t *testing.T) {
	padding := strings.Repeat(" ", jsonl.MaxLine-len(`{"email":"a"}`))
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":              {"", ""},
		"blank lines":          {"\n \t\r\n\n", ""},
		"no end of line":       {`{"email":"a"}`, `1 - "a"`},
		"Windows":              {"{\"email\":\"a\"}\r\n{\"email\":\"b\"}\r\n", `1 - "a"; 2 - "b"`},
		"blank between":        {"{\"email\":\"a\"}\n\n{\"id\":0,\"email\":\"b\"}\n", `1 - "a"; 3 0 "b"`},
		"goes on":              {"{\n{\"id\":2}\n", `1 malformed; 2 2 ""`},
		"unknown member":       {`{"email":"a","role":"admin"}`, "1 malformed"},
		"another case":         {`{"Email":"a"}`, "1 malformed"},
		"doubled":              {`{"email":"a","email":"b"}`, "1 malformed"},
		"null":                 {`{"id":null,"email":"a"}`, "1 malformed"},
		"id as text":           {`{"id":"7"}`, "1 malformed"},
		"id with a fraction":   {`{"id":7.5}`, "1 malformed"},
		"id too big":           {`{"id":9223372036854775808}`, "1 malformed"},
		"no time":              {`{"createdAt":"yesterday"}`, "1 malformed"},
		"two on a line":        {`{} {}`, "1 malformed"},
		"an array":             {`[]`, "1 malformed"},
		"invalid UTF-8":        {"{\"email\":\"\xff\"}", "1 malformed"},
		"as long as it may be": {`{"email":"a"}` + padding[1:] + "\n{}", `1 - "a"; 2 - ""`},
		"too long":             {`{"email":"a"}` + padding + "\n{}", `1 malformed; 2 - ""`},
		"far too long":         {strings.Repeat("x", 5*jsonl.MaxLine) + "\n{}", `1 malformed; 2 - ""`},
		"too long, at the end": {strings.Repeat("x", 2*jsonl.MaxLine), "1 malformed"},
	} {
		if got := strings.Join(told(t, strings.NewReader(tt.in)), "; "); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

func TestReaderEndsWithWhatItReadsFrom(t *testing.T) {
	for _, before := range []string{"", whole + "\n", strings.Repeat("x", 2*jsonl.MaxLine)} {
		r := jsonl.NewReader(io.MultiReader(strings.NewReader(before), iotest.ErrReader(io.ErrNoProgress)))
		var err error
		for n := 0; n < 3 && (err == nil || errors.Is(err, jsonl.ErrMalformed)); n++ {
			_, err = r.Next()
		}
		if !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("after %d bytes: %v", len(before), err)
		}
	}
}

// However a text arrives, every line that is not blank is told once, in its order.
func FuzzReader(f *testing.F) {
	f.Add(whole + "\n{}\n\n{\r\n")
	f.Add(strings.Repeat("x", jsonl.MaxLine+1) + "\n" + whole)
	f.Fuzz(func(t *testing.T, text string) {
		got := told(t, strings.NewReader(text))
		if slow := told(t, iotest.HalfReader(strings.NewReader(text))); !reflect.DeepEqual(got, slow) {
			t.Fatalf("%q, in pieces %q", got, slow)
		}
		var want []string
		for n, line := range strings.Split(text, "\n") {
			if len(line) >= jsonl.MaxLine || strings.Trim(line, " \t\r\n") != "" {
				want = append(want, fmt.Sprint(n+1))
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d lines told, want those of %v", text, len(got), want)
		}
		for n := range got {
			if !strings.HasPrefix(got[n], want[n]+" ") {
				t.Fatalf("%q where line %s is", got[n], want[n])
			}
		}
	})
}

func TestByteOrderMarkIsIgnored(t *testing.T) {
	got := told(t, strings.NewReader("\ufeff"+`{"email":"a"}`+"\n"+`{"email":"b"}`))
	if want := []string{`1 - "a"`, `2 - "b"`}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
