package bus

import (
	"crypto/sha256"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
)

// What it takes to answer auth.verify about a token that is remembered, but for the connection.
func BenchmarkAnswerVerify(b *testing.B) {
	text := strings.Repeat("t", 500)
	v := &Verifier{
		config: VerifierConfig{MaxStaleness: time.Hour}, clock: clock.New(clock.System().Read, clockTolerance),
		known: otter.Must(&otter.Options[digest, *remembered]{MaximumSize: 10}),
	}
	key := &verificationKey{}
	v.keys.Store(&keySet{"one": key})
	v.synced.Store(&syncPoint{})
	v.known.Set(sha256.Sum256([]byte(text)), &remembered{key: key, reply: auth.VerifyReply{Principal: auth.Principal{
		UserID: 7, SessionID: strings.Repeat("s", 36), Scopes: []string{}, AMR: []string{"pwd"},
		AuthTime: time.Now().UTC().Truncate(time.Second), IssuedAt: time.Now().UTC().Truncate(time.Second), ExpiresAt: time.Now().UTC().Add(time.Hour),
	}}})
	b.Run("Verify", func(b *testing.B) { // in the own process
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(b.Context(), text); err != nil {
				b.Fatal(err)
			}
		}
	})
	s := &Server{log: slog.New(slog.DiscardHandler)}
	for name, r := range map[string]request{
		"plain": {data: []byte(`{"token":"` + text + `"}`)},
		"Call":  {data: []byte(`{"token":"` + text + `"}`), header: nats.Header{headerTimeout: {"10000"}}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := serve(s, auth.Verify, r, v.Answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
