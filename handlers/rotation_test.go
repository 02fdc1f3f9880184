package handlers_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/internal/token"
)

const (
	rotation = 30 * 24 * time.Hour
	lead     = 10 * time.Minute
	remains  = accessTTL + token.Leeway // of a key that no longer signs
)

// eachRotating runs f with a service that rotates its keys.
func eachRotating(t *testing.T, f func(t *testing.T, s *service)) {
	each(t, func(t *testing.T, s *service) {
		s.keys.Rotation = rotation
		f(t, s)
	})
}

// turn is what Run does every five seconds.
func (s *service) turn(t *testing.T) {
	t.Helper()
	if err := s.keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// published are the kids in the key set.
func (s *service) published(t *testing.T) (kids []string) {
	t.Helper()
	for _, key := range keySet(t, s.keys) {
		kids = append(kids, key.KeyID)
	}
	return kids
}

func (s *service) wantPublished(t *testing.T, when string, kids ...string) {
	t.Helper()
	if got := s.published(t); !slices.Equal(got, kids) {
		t.Errorf("%s: the key set is %v, want %v", when, got, kids)
	}
}

// kid is the key that a new access token is signed with.
func (s *service) kid(t *testing.T) string {
	t.Helper()
	return kidOf(t, s.login(t).AccessToken)
}

func kidOf(t *testing.T, text string) string {
	t.Helper()
	head, _, _ := strings.Cut(text, ".")
	content, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid string }
	if err := json.Unmarshal(content, &header); err != nil {
		t.Fatal(err)
	}
	return header.Kid
}

func (s *service) states(t *testing.T) (states []keyring.KeyState) {
	t.Helper()
	for _, key := range s.listKeys(t) {
		states = append(states, key.State)
	}
	return states
}

func (s *service) listKeys(t *testing.T) []keyring.StoredKey {
	t.Helper()
	list, err := s.keys.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (s *service) rotate(t *testing.T, atOnce bool) (next keyring.StoredKey, made bool) {
	t.Helper()
	next, made, err := s.keys.Rotate(t.Context(), atOnce)
	if err != nil {
		t.Fatal(err)
	}
	return next, made
}

func TestAKeyIsPublishedBeforeItSignsAndVerifiesUntilItsLastTokenHasDied(t *testing.T) {
	eachRotating(t, func(t *testing.T, s *service) {
		s.register(t)
		first := s.kid(t)
		s.advance(rotation - lead - time.Microsecond)
		s.turn(t)
		s.wantPublished(t, "before the lead", first)

		s.advance(time.Microsecond)
		s.turn(t)
		kids := s.published(t)
		if len(kids) != 2 || kids[1] != first {
			t.Fatalf("at the lead: %v", kids)
		}
		next := kids[0]
		s.turn(t)
		s.wantPublished(t, "again", next, first)
		s.advance(lead - time.Microsecond)
		last := s.login(t)
		if kid := kidOf(t, last.AccessToken); kid != first {
			t.Errorf("before its time signs %s", kid)
		}

		s.advance(time.Microsecond) // nothing is loaded: the clock decides
		if kid := s.kid(t); kid != next {
			t.Errorf("at its time signs %s", kid)
		}
		want(t, "the first key's last token", s.verify(t, last.AccessToken), nil)
		s.advance(remains - time.Microsecond)
		s.turn(t)
		s.wantPublished(t, "while a token may live", next, first)
		s.advance(time.Microsecond)
		s.turn(t)
		s.wantPublished(t, "afterwards", next)
		if n := s.count(t, "signing_keys"); n != 1 {
			t.Errorf("%d rows", n)
		}
		s.advance(rotation - remains)
		s.turn(t)
		if kids := s.published(t); len(kids) != 2 || kids[1] != next {
			t.Errorf("the time after: %v", kids)
		}
	})
}

func TestZeroNeverRotates(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.published(t)
		s.advance(10 * 365 * 24 * time.Hour)
		s.turn(t)
		s.wantPublished(t, "ten years later", first...)
	})
}

func TestAMissedRotationIsMadeUpFor(t *testing.T) {
	eachRotating(t, func(t *testing.T, s *service) {
		s.register(t)
		first := s.kid(t)
		s.advance(3*rotation + time.Hour)
		again := s.another(t)
		again.keys.Rotation = rotation
		again.turn(t)
		kids := again.published(t)
		if len(kids) != 2 || kids[1] != first {
			t.Fatalf("%v", kids)
		}
		s.advance(lead - time.Microsecond)
		if kid := again.kid(t); kid != first {
			t.Errorf("before the new one was published long enough signs %s", kid)
		}
		s.advance(time.Microsecond)
		if kid := again.kid(t); kid != kids[0] {
			t.Errorf("then signs %s", kid)
		}
	})
}

func TestInstancesThatRotateAtOnceMakeOneKey(t *testing.T) {
	eachRotating(t, func(t *testing.T, s *service) {
		s.register(t)
		instances := make([]*service, 6)
		for i := range instances {
			instances[i] = s.another(t)
			instances[i].keys.Rotation = rotation
		}
		s.advance(rotation - lead)
		errs := atOnce(len(instances), func(i int) error { return instances[i].keys.Load(t.Context()) })
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if n := s.count(t, "signing_keys"); n != 2 {
			t.Errorf("%d keys", n)
		}
		s.advance(lead)
		signer := instances[0].published(t)[0]
		for _, other := range instances {
			if kid := other.kid(t); kid != signer {
				t.Errorf("one signs with %s, another with %s", signer, kid)
			}
		}
		// One that slept through it all asks when it meets the new kid.
		want(t, "an instance that has not loaded", s.verify(t, instances[0].login(t).AccessToken), nil)
	})
}

func TestHS256ModeDoesNotRotate(t *testing.T) {
	eachRotating(t, func(t *testing.T, s *service) {
		s.keys.Secret = []byte("an ancestor's secret of 32 bytes")
		s.advance(2 * rotation)
		s.turn(t)
		if n := s.count(t, "signing_keys"); n != 1 || len(s.published(t)) != 0 {
			t.Errorf("%d keys, published %v", n, s.published(t))
		}
	})
}

func TestRotateByHand(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		first := s.kid(t)
		s.advance(time.Hour)
		next, made := s.rotate(t, false)
		if !made || next.State != keyring.KeyNext || next.ActiveFrom != s.now().Add(lead) {
			t.Errorf("%+v, made %v", next, made)
		}
		if again, made := s.rotate(t, false); made || again != next {
			t.Errorf("again: %+v, made %v", again, made)
		}
		s.turn(t)
		s.wantPublished(t, "waiting", next.ID, first)
		if kid := s.kid(t); kid != first {
			t.Errorf("before its time signs %s", kid)
		}

		s.advance(time.Second)
		if now, made := s.rotate(t, true); made || now.ID != next.ID || now.State != keyring.KeySigning || now.ActiveFrom != s.now() {
			t.Errorf("at once: %+v, made %v", now, made)
		}
		s.turn(t)
		if kid := s.kid(t); kid != next.ID {
			t.Errorf("at once signs %s", kid)
		}
		if list := s.listKeys(t); len(list) != 2 || list[1].State != keyring.KeyVerifying || list[1].VerifiesUntil != s.now().Add(remains) {
			t.Errorf("%+v", list)
		}

		s.advance(time.Second)
		third, made := s.rotate(t, true)
		s.turn(t)
		if kid := s.kid(t); !made || kid != third.ID {
			t.Errorf("at once without one waiting: made %v, signs %s", made, kid)
		}
		s.wantPublished(t, "in the end", third.ID, next.ID, first)
	})
}

func TestRotateUnderAnotherMasterSecretChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		wrong := &keyring.Keys{Store: s.store, Master: parse(t, secret.Generate()), Clock: s.now}
		_, _, err := wrong.Rotate(t.Context(), true)
		want(t, "rotate", err, secret.ErrSealed)
		want(t, "retire", wrong.Retire(t.Context(), s.published(t)[0]), secret.ErrSealed)
		if n := s.count(t, "signing_keys"); n != 1 {
			t.Errorf("%d keys", n)
		}
		s.turn(t)
	})
}

func TestRetiringTheOnlyKeyMakesANewOneAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		other := s.another(t)
		tokens := s.begun(t)
		kid := kidOf(t, tokens.AccessToken)
		s.advance(time.Minute)
		want(t, "retire", s.keys.Retire(t.Context(), kid), nil)
		want(t, "again", s.keys.Retire(t.Context(), kid), auth.ErrNotFound)
		want(t, "an unknown one", s.keys.Retire(t.Context(), "unknown"), auth.ErrNotFound)
		if states := s.states(t); !slices.Equal(states, []keyring.KeyState{keyring.KeySigning, keyring.KeyRetired}) {
			t.Errorf("%v", states)
		}
		stored, err := s.store.SigningKeys(t.Context())
		if err != nil || len(stored) != 2 || len(stored[1].Sealed) != 0 {
			t.Errorf("the private half is kept: %+v, %v", stored, err)
		}

		for name, instance := range map[string]*service{"this": s, "another": other} {
			instance.turn(t)
			want(t, name+", its token", instance.verify(t, tokens.AccessToken), auth.ErrInvalidToken)
			instance.wantPublished(t, name, stored[0].ID)
			if got := instance.kid(t); got != stored[0].ID {
				t.Errorf("%s signs with %s", name, got)
			}
		}
		want(t, "a refreshed one", other.verify(t, s.refresh(t, tokens).AccessToken), nil)

		s.advance(remains)
		s.turn(t)
		if n := s.count(t, "signing_keys"); n != 1 {
			t.Errorf("%d rows once nobody asks for it any more", n)
		}
	})
}

func TestRetiringTheSigningKeyLetsTheWaitingOneSign(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		first := s.kid(t)
		next, _ := s.rotate(t, false)
		want(t, "retire", s.keys.Retire(t.Context(), first), nil)
		s.turn(t)
		s.wantPublished(t, "afterwards", next.ID)
		if kid := s.kid(t); kid != next.ID {
			t.Errorf("signs %s", kid)
		}
	})
}

func TestRetiringANewKeyLeavesTheOldOneInPlace(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		first := s.kid(t)
		for _, atOnce := range []bool{false, true} {
			s.advance(time.Second)
			next, _ := s.rotate(t, atOnce)
			s.advance(time.Second)
			want(t, "retire", s.keys.Retire(t.Context(), next.ID), nil)
			s.turn(t)
			s.wantPublished(t, "afterwards", first)
			if kid := s.kid(t); kid != first {
				t.Errorf("signs %s", kid)
			}
		}
		s.advance(2 * remains)
		s.turn(t)
		s.wantPublished(t, "long afterwards", first)
	})
}

// An instance whose clock is behind signs with what there is.
func TestAKeyFromTheFutureSignsIfThereIsNoOther(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.advance(-time.Minute)
		slow := s.another(t)
		slow.kid(t)
		if n := s.count(t, "signing_keys"); n != 1 {
			t.Errorf("%d keys", n)
		}
	})
}

// The bubble's clock moves the ticks, and SQLite runs inside of it.
func TestRunSaysOnceThatKeysCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, testdb.SQLite(t), secret.Generate(), &clock{})
		log := make(records, 100)
		s.keys.Log = slog.New(slog.NewTextHandler(log, nil))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.keys.Run(ctx) }()
		turns := func(n int) string {
			time.Sleep(time.Duration(n)*5*time.Second + time.Second)
			synctest.Wait()
			return log.drain()
		}

		if said := turns(2); said != "" {
			t.Errorf("when all is well: %s", said)
		}
		stored := s.published(t)
		s.execute(t, "ALTER TABLE signing_keys RENAME TO elsewhere")
		if said := turns(3); strings.Count(said, "\n") != 1 || !strings.Contains(said, "cannot be read") {
			t.Errorf("while the table is away: %s", said)
		}
		s.wantPublished(t, "while the table is away", stored...)
		s.execute(t, "ALTER TABLE elsewhere RENAME TO signing_keys")
		s.advance(time.Second)
		s.rotate(t, true)
		if said := turns(2); strings.Count(said, "\n") != 2 || !strings.Contains(said, "read again") || !strings.Contains(said, s.published(t)[0]) {
			t.Errorf("when it is back, with another key: %s", said)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// records is a log, a record at a time.
type records chan string

func (r records) Write(p []byte) (int, error) {
	r <- string(p)
	return len(p), nil
}

// drain returns what was logged since the last time.
func (r records) drain() (text string) {
	for len(r) > 0 {
		text += <-r
	}
	return text
}
