package authhttp_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/authhttp"
	"github.com/zyotra/auth/internal/testauthority"
)

func Example() {
	conn, err := bus.Connect("nats://127.0.0.1:4222")
	if err != nil {
		log.Fatal(err)
	}
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra"})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("GET /orders", authhttp.Require(v, "orders:read")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "orders of user", authhttp.Identity(r.Context()).UserID)
	})))
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}

func TestRequire(t *testing.T) {
	a := testauthority.Start(t)
	tries := a.Tries(t)
	v := a.Verifier(t, bus.VerifierConfig{})
	for _, try := range tries {
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, authhttp.Identity(r.Context()).UserID)
		})
		s := httptest.NewServer(authhttp.Require(v, try.Scope)(next))
		defer s.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Authorization"] = try.Authorization
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		try.Check(t, resp)
	}
}

func TestRequireAnswersUnavailableWhenNobodyVouches(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{})
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+a.Sign(t, "one", "good", time.Minute))
	authhttp.Require(v)(http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
}
