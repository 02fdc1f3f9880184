package handlers_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/uptrace/bun"
	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testpg"
)

func TestRegisterNamesTheClientTogetherWithOtherFaults(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: "ada", Password: horse, Origin: from("localhost")})
		want(t, "register", err, auth.ErrInvalid)
		reasons := map[string]string{}
		for _, f := range auth.Public(err).Fields {
			reasons[f.Field] = f.Reason
		}
		if !reflect.DeepEqual(reasons, map[string]string{"client.ip": "invalid", "email": "invalid"}) {
			t.Errorf("faults: %v", reasons)
		}
	})
}

// During a roll-out an instance that knows a higher cost stores the same password afresh
// between another's comparison and its session. SQLite cannot be stopped there.
func TestRightPasswordIsTakenWhileItIsStoredAfresh(t *testing.T) {
	t.Parallel()
	s := start(t, testpg.URL(t), secret.Generate(), &clock{})
	s.register(t)
	afresh, err := hasher(t, s.master, bcrypt.MinCost+1).Hash(t.Context(), horse)
	if err != nil {
		t.Fatal(err)
	}
	login := make(chan error, 1)
	err = s.store.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE users SET password = ?", afresh); err != nil {
			return err
		}
		go func() {
			_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
			login <- err
		}()
		for waiting := 0; waiting == 0; {
			err := s.store.DB().NewRaw("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").
				Scan(ctx, &waiting)
			if err != nil {
				return err
			}
			if len(login) > 0 {
				return errors.New("the login did not wait")
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	want(t, "login", <-login, nil)
}
