package handlers

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// Whoever was turned away before the password was looked at has not guessed.
func TestAChargeIsGivenBackWhenThereWasTooMuchToDo(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"sqlite": "sqlite://" + filepath.Join(t.TempDir(), "auth.db"), "postgres": testpg.URL(t),
	} {
		t.Run(name, func(t *testing.T) {
			store, err := persistence.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			if _, err := migrations.Up(t.Context(), store.DB()); err != nil {
				t.Fatal(err)
			}
			two := []gcra.Limit{{Burst: 2, Interval: time.Minute}}
			limits, err := NewLimits(store, []byte("key"), Rules{Login: two, LoginAccount: two, LoginSource: two})
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				try, err := limits.guess(t.Context(), "ada@example.com", auth.Client{IP: "192.0.2.1"})
				if err != nil {
					t.Fatal(err)
				}
				if err := try.failed(t.Context(), auth.ErrOverloaded); !errors.Is(err, auth.ErrOverloaded) {
					t.Fatal(err)
				}
			}
			for _, wanted := range []error{nil, nil, auth.ErrRateLimited} {
				try, err := limits.guess(t.Context(), "ada@example.com", auth.Client{IP: "192.0.2.1"})
				if !errors.Is(err, wanted) {
					t.Errorf("%v, want %v", err, wanted)
				}
				if err := try.failed(t.Context(), auth.ErrInvalidCredentials); !errors.Is(err, auth.ErrInvalidCredentials) {
					t.Error(err)
				}
			}
		})
	}
}
