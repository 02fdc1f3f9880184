// Command verifier measures how long it takes until verifiers refuse a session after its
// logout was acknowledged, and what a verification in the own process costs beside the bare
// check of a signature. It starts an authd of its own on loopback: go run ./bench/verifier
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"log"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bus"
)

func main() {
	rounds := flag.Int("rounds", 100, "logouts for each number of verifiers")
	flag.Parse()
	if err := run(*rounds); err != nil {
		log.Fatal(err)
	}
}

func run(rounds int) (err error) {
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	d, err := daemon.Start(binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	conn, err := bus.Connect(d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx := context.Background()
	if _, err := bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: "ada@example.com", Password: "correct horse battery"}); err != nil {
		return err
	}
	fmt.Println("from the acknowledged logout to refusal in the last of n verifiers, one process, TCP to the bus:")
	for _, n := range []int{1, 10, 100} {
		if err := revocation(ctx, conn, d.NATS, n, rounds); err != nil {
			return err
		}
	}
	return verification(ctx, conn)
}

func login(ctx context.Context, conn *nats.Conn) (string, error) {
	reply, err := bus.Call(ctx, conn, auth.Login, auth.LoginRequest{Email: "ada@example.com", Password: "correct horse battery"})
	return reply.AccessToken, err
}

func newVerifier(ctx context.Context, conn *nats.Conn) (*bus.Verifier, error) {
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra"})
	if err != nil {
		return nil, err
	}
	return v, v.Ready(ctx)
}

// revocation has n verifiers, each on a connection of its own, refuse sessions.
func revocation(ctx context.Context, conn *nats.Conn, url string, n, rounds int) error {
	verifiers := make([]*bus.Verifier, n)
	for i := range verifiers {
		own, err := bus.Connect(url)
		if err != nil {
			return err
		}
		defer own.Close()
		if verifiers[i], err = newVerifier(ctx, own); err != nil {
			return err
		}
		defer verifiers[i].Close()
	}
	var took []time.Duration
	for range rounds {
		token, err := login(ctx, conn)
		if err != nil {
			return err
		}
		for _, v := range verifiers {
			if _, err := v.Verify(ctx, token); err != nil {
				return err
			}
		}
		if _, err := bus.Call(ctx, conn, auth.Logout, auth.LogoutRequest{Bearer: auth.Bearer{AccessToken: token}}); err != nil {
			return err
		}
		acknowledged := time.Now()
		for _, v := range verifiers {
			for {
				_, err := v.Verify(ctx, token)
				if errors.Is(err, auth.ErrTokenRevoked) {
					break
				}
				if err != nil {
					return err
				}
				time.Sleep(50 * time.Microsecond)
			}
		}
		took = append(took, time.Since(acknowledged))
	}
	slices.Sort(took)
	fmt.Printf("  %3d verifiers: p50 %8s  p99 %8s  max %8s\n", n, took[len(took)/2].Round(10*time.Microsecond),
		took[len(took)*99/100].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond))
	return nil
}

// verification compares a remembered and a new token with the bare check of a signature.
func verification(ctx context.Context, conn *nats.Conn) error {
	v, err := newVerifier(ctx, conn)
	if err != nil {
		return err
	}
	defer v.Close()
	token, err := login(ctx, conn)
	if err != nil {
		return err
	}
	set, err := bus.Call(ctx, conn, auth.Keys, auth.KeysRequest{})
	if err != nil {
		return err
	}
	key, err := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
	if err != nil {
		return err
	}
	list, err := newTokens(ctx, conn)
	if err != nil {
		return err
	}
	bare, fresh, err := firstSight(ctx, v, key, list)
	if err != nil {
		return err
	}
	remembered := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(ctx, token); err != nil {
				b.Fatal(err)
			}
		}
	})
	fmt.Printf("verification of one token of %d bytes:\n", len(token))
	fmt.Printf("  bare signature  %6d ns\n", bare.Nanoseconds())
	fmt.Printf("  new token       %6d ns  %.2f of bare\n", fresh.Nanoseconds(), float64(fresh)/float64(bare))
	fmt.Printf("  remembered      %6d ns  %d allocations\n", remembered.NsPerOp(), remembered.AllocsPerOp())
	return nil
}

// newTokens makes a thousand tokens of one session.
func newTokens(ctx context.Context, conn *nats.Conn) ([]string, error) {
	session, err := bus.Call(ctx, conn, auth.Login, auth.LoginRequest{Email: "ada@example.com", Password: "correct horse battery"})
	if err != nil {
		return nil, err
	}
	list, refresh := make([]string, 1000), session.RefreshToken
	for i := range list {
		next, err := bus.Call(ctx, conn, auth.Refresh, auth.RefreshRequest{RefreshToken: refresh})
		if err != nil {
			return nil, err
		}
		list[i], refresh = next.AccessToken, next.RefreshToken
	}
	return list, nil
}

// firstSight takes tokens one after the other, checks the signature of each alone and then
// has it verified, and returns what each took in the median.
func firstSight(ctx context.Context, v *bus.Verifier, key ed25519.PublicKey, list []string) (bare, fresh time.Duration, err error) {
	var signatures, verifications []time.Duration
	for _, token := range list {
		dot := strings.LastIndexByte(token, '.')
		signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
		if err != nil {
			return 0, 0, err
		}
		signed := []byte(token[:dot])
		began := time.Now()
		good := ed25519.Verify(key, signed, signature)
		checked := time.Now()
		if _, err := v.Verify(ctx, token); err != nil || !good {
			return 0, 0, errors.Join(err, errors.New("a token was not good"))
		}
		signatures, verifications = append(signatures, checked.Sub(began)), append(verifications, time.Since(checked))
	}
	slices.Sort(signatures)
	slices.Sort(verifications)
	return signatures[len(list)/2], verifications[len(list)/2], nil
}
