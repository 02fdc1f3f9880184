package rawhttp

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAnswersOnOneConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(r.Body) // what is missing shows in the answer
		io.WriteString(w, r.Method+r.Header.Get("Authorization")+string(body))
	}))
	defer server.Close()
	c, err := Dial(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Do(Get("/refused")); err == nil {
		t.Error("401 is no error")
	}
	for request, want := range map[string]string{
		string(Get("/", "Authorization: Bearer x")): "GETBearer x",
		string(Post("/", `{"a":1}`)):                `POST{"a":1}`,
	} {
		if got, err := c.Do([]byte(request)); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}
