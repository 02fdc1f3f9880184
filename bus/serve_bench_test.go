package bus

import (
	"context"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
)

// What answering auth.verify costs but for the verification and the connection.
func BenchmarkServe(b *testing.B) {
	fn := func(context.Context, auth.VerifyRequest) (auth.VerifyReply, error) {
		return auth.VerifyReply{UserID: 1}, nil
	}
	r := request{[]byte(`{"token":"a.b.c"}`), nats.Header{headerTimeout: {"1000"}}}
	s := &Server{log: slog.New(slog.DiscardHandler)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := serve(s, auth.Verify, r, fn); err != nil {
			b.Fatal(err)
		}
	}
}
