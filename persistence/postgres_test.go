package persistence_test

import (
	"context"
	"errors"
	"testing"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

func TestHoldPasswordHoldsUntilTheTransactionEnds(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.Postgres(t))
	id := newUser(t, s, "a")
	replaced := make(chan error, 1)
	err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
		if _, err := tx.HoldPassword(ctx, id); err != nil {
			return err
		}
		go func() {
			ok, err := s.ReplacePassword(t.Context(), id, "stored", "fresh")
			if err == nil && !ok {
				err = errors.New("not replaced")
			}
			replaced <- err
		}()
		for waiting := 0; waiting == 0; {
			select {
			case err := <-replaced:
				t.Errorf("it did not wait: %v", err)
				replaced <- err
				return nil
			default:
			}
			err := s.DB().NewRaw("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").
				Scan(ctx, &waiting)
			if err != nil {
				return err
			}
		}
		if password, err := tx.HoldPassword(ctx, id); err != nil || password != "stored" {
			t.Errorf("while it waits: %q, %v", password, err)
		}
		return nil
	})
	if err := errors.Join(err, <-replaced); err != nil {
		t.Fatal(err)
	}
	if password, err := s.HoldPassword(t.Context(), id); err != nil || password != "fresh" {
		t.Errorf("afterwards: %q, %v", password, err)
	}
}

func TestStoppedPostgresIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	server, err := testpg.Start(t.Context(), testpg.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := open(t, server.URL)
	id := newUser(t, s, "b")

	err = s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
		if _, err := tx.CreateUser(ctx, persistence.NewUser{EmailKey: "c", At: now}); err != nil {
			return err
		}
		return server.Stop()
	})
	if !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("a transaction under way: %v", err)
	}
	for name, err := range ask(t.Context(), s) {
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Account(t.Context(), id); err != nil {
		t.Errorf("back again: %v", err)
	}
	if n := users(t, s); n != 1 {
		t.Errorf("%d users", n)
	}
}
