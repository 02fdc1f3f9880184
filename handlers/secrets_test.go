package handlers_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/internal/secret"
)

func (s *service) secrets(t *testing.T, master string) *keyring.Secrets {
	t.Helper()
	return &keyring.Secrets{Store: s.store, Master: parse(t, master), Clock: s.now}
}

func (s *service) reseal(t *testing.T, master string) keyring.Resealed {
	t.Helper()
	done, err := s.secrets(t, master).Reseal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (s *service) needsAll(t *testing.T, master string) bool {
	t.Helper()
	needed, err := s.secrets(t, master).NeedsAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return needed
}

// refusedWith wants the service not to start with the master secret.
func (s *service) refusedWith(t *testing.T, when, master string) {
	t.Helper()
	_, err := s.secrets(t, master).Peppers(t.Context())
	want(t, when, err, secret.ErrSealed)
}

func TestTheMasterSecretIsReplaced(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		former := s.stored(t)
		next := secret.Generate()
		both := next + "," + s.master
		s.refusedWith(t, "the new one alone", next)

		during := start(t, s.url, both, s.clock)
		during.rotate(t, true)
		if !during.needsAll(t, both) {
			t.Error("the former one is said to be needed no longer")
		}
		s.refusedWith(t, "the new one alone, although it seals the key that signs", next)
		if done := during.reseal(t, both); done != (keyring.Resealed{Keys: 1, Peppers: 1}) {
			t.Errorf("%+v", done)
		}
		if during.needsAll(t, both) {
			t.Error("the former one is said to be needed still")
		}
		if done := during.reseal(t, both); done != (keyring.Resealed{}) {
			t.Errorf("again: %+v", done)
		}
		s.wantSealedWith(t, next)
		s.refusedWith(t, "the former one alone", s.master)

		after := start(t, s.url, next, s.clock)
		want(t, "an access token from before", after.verify(t, tokens.AccessToken), nil)
		_, err := after.tryRefresh(t, tokens.RefreshToken)
		want(t, "a refresh token from before", err, auth.ErrInvalidToken)
		if s.stored(t) != former {
			t.Fatal("the password was rewritten before anybody logged in")
		}
		after.login(t)
		if id := parse(t, next)[0].ID; !strings.HasPrefix(s.stored(t), "$bcrypt-hmac-sha256$"+id+"$") {
			t.Errorf("the password is stored as %s", s.stored(t))
		}
		after.login(t)
	})
}

// wantSealedWith wants the master secret to open everything.
func (s *service) wantSealedWith(t *testing.T, master string) {
	t.Helper()
	keys, err := s.store.SigningKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if _, err := parse(t, master).Open(k.Sealed, "signing_keys/"+k.ID); err != nil {
			t.Errorf("key %s: %v", k.ID, err)
		}
	}
	peppers, err := s.store.Peppers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range peppers {
		if _, err := parse(t, master).Open(p.Sealed, "peppers/"+p.ID); err != nil {
			t.Errorf("pepper %s: %v", p.ID, err)
		}
	}
}

func TestThePepperOutlivesTwoReplacements(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		second, third := secret.Generate(), secret.Generate()
		start(t, s.url, second+","+s.master, s.clock)
		s.reseal(t, second+","+s.master)
		start(t, s.url, third+","+second, s.clock)
		if done := s.reseal(t, third+","+second); done != (keyring.Resealed{Keys: 1, Peppers: 2}) {
			t.Errorf("%+v", done)
		}
		start(t, s.url, third, s.clock).login(t)
	})
}

// Before a roll-out every instance learns the new secret as its second one.
func TestInstancesLearnTheNewSecretBeforeItSeals(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		next := secret.Generate()
		first := start(t, s.url, s.master+","+next, s.clock)
		s.another(t) // with the former one alone
		start(t, s.url, next+","+s.master, s.clock).rotate(t, true)
		again := start(t, s.url, s.master+","+next, s.clock)
		first.turn(t)
		if !slices.Equal(first.published(t), again.published(t)) {
			t.Errorf("%v, %v", first.published(t), again.published(t))
		}
		first.login(t)
	})
}

func TestResealWithoutTheFormerSecretChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		before := s.dump(t)
		for _, master := range []string{secret.Generate(), secret.Generate() + "," + secret.Generate()} {
			_, err := s.secrets(t, master).Reseal(t.Context())
			want(t, "another secret", err, secret.ErrSealed)
			s.refusedWith(t, "another secret", master)
		}
		if lines(s.dump(t)) != lines(before) {
			t.Error("something was changed")
		}
	})
}

// lines are the same whatever order the columns came in.
func lines(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

func TestRetiredKeysAreNotResealed(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		want(t, "retire", s.keys.Retire(t.Context(), s.kid(t)), nil)
		next := secret.Generate()
		if done := s.reseal(t, next+","+s.master); done != (keyring.Resealed{Keys: 1, Peppers: 1}) {
			t.Errorf("%+v", done)
		}
		start(t, s.url, next, s.clock).login(t)
	})
}
