package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/persistence"
)

// old is horse as the ancestor stored it.
var old = func() string {
	hash, err := bcrypt.GenerateFromPassword([]byte(horse), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return strings.Replace(string(hash), "$2a$", "$2b$", 1)
}()

func candidate(id auth.UserID, address string) handlers.Candidate {
	return handlers.Candidate{ImportedUser: persistence.ImportedUser{
		ID: id, Email: address, Name: "Ada", Password: old, CreatedAt: begin.Add(-time.Hour), UpdatedAt: begin.Add(-time.Minute),
	}}
}

func unnamed(line int, address string) handlers.Candidate {
	c := candidate(0, address)
	c.NoID, c.Line = true, line
	return c
}

// given is a source that gives what there is.
func given(all ...handlers.Candidate) handlers.Source {
	return func(_ context.Context, n int) (batch []handlers.Candidate, _ error) {
		n = min(n, len(all))
		batch, all = all[:n], all[n:]
		return batch, nil
	}
}

// imports runs an import and returns how it went in words, skipped accounts included.
func (s *service) imports(t *testing.T, dry bool, all ...handlers.Candidate) string {
	t.Helper()
	var skipped []string
	i := handlers.Import{Store: s.store, DryRun: dry, Clock: s.now, Skipped: func(k handlers.Skip) error {
		skipped = append(skipped, fmt.Sprintf(", %d/%d %s", k.Line, k.ID, k.Reason))
		return nil
	}}
	c, err := i.Run(t.Context(), given(all...))
	if err != nil {
		t.Fatal(err)
	}
	if c.Read != len(all) || c.Skipped != len(skipped) || c.Read != c.Imported+c.Present+c.Skipped {
		t.Errorf("counts %+v of %d, %d skipped", c, len(all), len(skipped))
	}
	return fmt.Sprintf("%d imported, %d present%s", c.Imported, c.Present, strings.Join(skipped, ""))
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

func TestImportKeepsAccountsAndLogsThemIn(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		same(t, "import", s.imports(t, false, candidate(41, ada)), "1 imported, 0 present")
		account, err := s.store.Account(t.Context(), 41)
		if err != nil {
			t.Fatal(err)
		}
		kept := auth.Account{UserID: 41, Email: "Ada@example.com", Name: "Ada", CreatedAt: begin.Add(-time.Hour), UpdatedAt: begin.Add(-time.Minute)}
		if account != kept {
			t.Errorf("got %+v, want %+v", account, kept)
		}
		if s.stored(t) != old {
			t.Error("another password is stored")
		}
		if reply := s.login(t); reply.UserID != 41 {
			t.Errorf("logged in as %d", reply.UserID)
		}
		if fresh := s.stored(t); !strings.HasPrefix(fresh, "$bcrypt-hmac-sha256$") {
			t.Errorf("after a login %q is stored", fresh)
		}
		same(t, "again", s.imports(t, false, candidate(41, ada)), "0 imported, 1 present")
		if s.stored(t) == old {
			t.Error("importing again brought the old string back")
		}
	})
}

func TestImportLeavesRoomForNewAccounts(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.imports(t, false, candidate(900, "z@example.com"), candidate(7, "a@example.com"))
		if id := s.register(t); id != 901 {
			t.Errorf("the next one is %d", id)
		}
		same(t, "without ids", s.imports(t, false, unnamed(1, "b@example.com")), "1 imported, 0 present")
		if c, err := s.store.Credentials(t.Context(), "b@example.com"); err != nil || c.UserID != 902 {
			t.Errorf("the one after that is %d, %v", c.UserID, err)
		}
	})
}

func TestImportSaysWhatItSkips(t *testing.T) {
	change := func(id auth.UserID, f func(*handlers.Candidate)) handlers.Candidate {
		c := candidate(id, fmt.Sprintf("u%d@example.com", id))
		f(&c)
		return c
	}
	all := []handlers.Candidate{
		candidate(1, ada),
		candidate(0, "zero@example.com"), candidate(-3, "less@example.com"), candidate(1<<53, "more@example.com"),
		change(2, func(c *handlers.Candidate) { c.Email = "" }),
		change(3, func(c *handlers.Candidate) { c.Email = "a b@example.com" }),
		change(4, func(c *handlers.Candidate) { c.Name = "A\nB" }),
		change(5, func(c *handlers.Candidate) { c.Name = "\xff" }),
		change(6, func(c *handlers.Candidate) { c.Name = strings.Repeat("x", 201) }),
		change(7, func(c *handlers.Candidate) { c.Password = "" }),
		change(8, func(c *handlers.Candidate) { c.Password = "plain text" }),
		change(9, func(c *handlers.Candidate) { c.Password = "$bcrypt-hmac-sha256$x$" + old[1:] }),
		change(10, func(c *handlers.Candidate) { c.Password = strings.Replace(old, "$04$", "$16$", 1) }),
		candidate(11, "ADA@example.com"), candidate(1, "other@example.com"), candidate(1, "ada@EXAMPLE.com"),
		{Line: 17, Malformed: true},
		candidate(12, "last@example.com"),
	}
	const skipped = ", 0/0 invalid_id, 0/-3 invalid_id, 0/9007199254740992 invalid_id, 0/2 invalid_email, 0/3 invalid_email" +
		", 0/4 invalid_name, 0/5 invalid_name, 0/6 invalid_name, 0/7 unusable_password, 0/8 unusable_password" +
		", 0/9 unusable_password, 0/10 unusable_password, 0/11 duplicate_email, 0/1 id_taken, 17/0 malformed"
	each(t, func(t *testing.T, s *service) {
		same(t, "dry", s.imports(t, true, all...), "2 imported, 1 present"+skipped)
		if n := s.count(t, "users"); n != 0 {
			t.Errorf("a dry run stored %d", n)
		}
		same(t, "first", s.imports(t, false, all...), "2 imported, 1 present"+skipped)
		same(t, "again", s.imports(t, false, all...), "0 imported, 3 present"+skipped)
		same(t, "dry again", s.imports(t, true, all...), "0 imported, 3 present"+skipped)
		if n := s.count(t, "users"); n != 2 {
			t.Errorf("%d users", n)
		}
	})
}

func TestImportDoesNotTouchWhoRegisteredHere(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		before := s.stored(t)
		same(t, "import", s.imports(t, false, candidate(id+4, ada), candidate(id, "b@example.com"), unnamed(3, ada)),
			"0 imported, 1 present, 0/5 duplicate_email, 0/1 id_taken")
		if s.stored(t) != before {
			t.Error("the password is another one")
		}
	})
}

// A line without an id is known again by its address; two of them in one file are not one.
func TestImportWithoutIDs(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		all := []handlers.Candidate{unnamed(1, ada), unnamed(2, "b@example.com"), unnamed(3, "ada@example.com")}
		same(t, "dry", s.imports(t, true, all...), "2 imported, 0 present, 3/0 duplicate_email")
		same(t, "first", s.imports(t, false, all...), "2 imported, 0 present, 3/0 duplicate_email")
		same(t, "again", s.imports(t, false, all...), "0 imported, 2 present, 3/0 duplicate_email")
		if id := s.login(t).UserID; id != 1 {
			t.Errorf("logged in as %d", id)
		}
	})
}

func TestImportFillsInTimes(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		day := time.Date(2020, 1, 2, 3, 4, 5, 6789, time.FixedZone("", 3600))
		late := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600))
		for id, tt := range []struct{ created, updated, wantCreated, wantUpdated time.Time }{
			{wantCreated: begin, wantUpdated: begin},
			{created: day, wantCreated: day.UTC().Truncate(time.Microsecond), wantUpdated: day.UTC().Truncate(time.Microsecond)},
			{created: late, updated: late, wantCreated: begin, wantUpdated: begin},
		} {
			c := candidate(auth.UserID(id+1), fmt.Sprintf("u%d@example.com", id))
			c.CreatedAt, c.UpdatedAt = tt.created, tt.updated
			s.imports(t, false, c)
			got, err := s.store.Account(t.Context(), c.ID)
			if err != nil || got.CreatedAt != tt.wantCreated || got.UpdatedAt != tt.wantUpdated {
				t.Errorf("%d: %+v, %v", c.ID, got, err)
			}
		}
	})
}

// many are more than one batch, and not in the order of their ids.
func many() (all []handlers.Candidate) {
	for n := range 1200 {
		all = append(all, candidate(auth.UserID(1200-n), fmt.Sprintf("u%d@example.com", n)))
	}
	return all
}

func TestImportStopsBetweenBatchesAndGoesOn(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		ctx, cancel := context.WithCancel(t.Context())
		i := handlers.Import{Store: s.store, Progress: func(handlers.ImportCounts) { cancel() }}
		c, err := i.Run(ctx, given(many()...))
		if !errors.Is(err, context.Canceled) || c.Imported != 500 || s.count(t, "users") != 500 {
			t.Errorf("%+v, %v, %d users", c, err, s.count(t, "users"))
		}
		same(t, "again", s.imports(t, false, many()...), "700 imported, 500 present")
	})
}

func TestImportEndsWithItsSource(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		lost := errors.New("lost")
		source := given(many()...)
		i := handlers.Import{Store: s.store}
		c, err := i.Run(t.Context(), func(ctx context.Context, n int) ([]handlers.Candidate, error) {
			batch, err := source(ctx, n)
			if len(batch) < n {
				err = lost
			}
			return batch, err
		})
		if !errors.Is(err, lost) || c.Imported != 1000 || s.count(t, "users") != 1000 {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// Two imports of the same accounts, and people who register meanwhile.
func TestImportBesideOthers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		other := s.another(t)
		if err := s.store.ReserveIDs(t.Context(), 1200); err != nil { // as the program does
			t.Fatal(err)
		}
		var counts [2]handlers.ImportCounts
		errs := atOnce(6, func(n int) (err error) {
			if n < 2 {
				i := handlers.Import{Store: []*service{s, other}[n].store}
				counts[n], err = i.Run(t.Context(), given(many()...))
				return err
			}
			for k := range 10 {
				_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: fmt.Sprintf("new%d.%d@example.com", n, k), Password: horse})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if counts[0].Imported+counts[1].Imported != 1200 || counts[0].Skipped+counts[1].Skipped != 0 {
			t.Errorf("%+v", counts)
		}
		var low int
		if err := s.store.DB().NewRaw("SELECT count(*) FROM users WHERE id <= 1200 AND email LIKE 'new%'").Scan(t.Context(), &low); err != nil || low != 0 {
			t.Errorf("%d new accounts have old ids, %v", low, err)
		}
	})
}

func TestAccountsWithoutAUsablePasswordAreImportedIfAsked(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		candidates := []handlers.Candidate{
			{NoID: true, ImportedUser: persistence.ImportedUser{Email: "none@example.com"}},
			{NoID: true, ImportedUser: persistence.ImportedUser{Email: "md5@example.com", Password: "5f4dcc3b5aa765d61d8327deb882cf99"}},
		}
		once := func() handlers.Source {
			rest := candidates
			return func(context.Context, int) (batch []handlers.Candidate, err error) {
				batch, rest = rest, nil
				return batch, nil
			}
		}
		refusing := handlers.Import{Store: s.store}
		if counts, err := refusing.Run(t.Context(), once()); err != nil || counts.Skipped != 2 {
			t.Fatalf("%+v, %v", counts, err)
		}
		taking := handlers.Import{Store: s.store, WithoutPassword: true}
		if counts, err := taking.Run(t.Context(), once()); err != nil || counts.Imported != 2 {
			t.Fatalf("%+v, %v", counts, err)
		}
		for _, c := range candidates {
			for _, plain := range []string{"", "password", c.Password} {
				_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: c.Email, Password: plain})
				want(t, c.Email, err, auth.ErrInvalidCredentials)
			}
		}
	})
}
