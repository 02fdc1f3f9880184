package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/persistence"
)

func sequence(n uint64) func(context.Context) (uint64, error) {
	return func(context.Context) (uint64, error) { return n, nil }
}

func TestTheSnapshotHasEveryUserOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		var want []auth.UserID
		for i := range 7 {
			u := persistence.NewUser{Email: fmt.Sprint(i), EmailKey: fmt.Sprint(i), Password: "stored", At: begin}
			created, err := s.store.CreateUser(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, created)
		}
		s.execute(t, "DELETE FROM users WHERE id = ?", want[2])
		want = append([]auth.UserID{id}, slices.Delete(want, 2, 3)...)
		snapshot := handlers.Snapshot{Store: s.store, Sequence: sequence(42)}
		for limit, pages := range map[int]int{0: 1, 1: 7, 3: 3, 6: 2, 7: 1, 500: 1} {
			var got []auth.UserID
			n := 0
			for request := (auth.UsersSnapshotRequest{Limit: limit}); ; n++ {
				page, err := snapshot.Users(t.Context(), request)
				if err != nil || page.Sequence != 42 {
					t.Fatalf("%+v, %v", page, err)
				}
				for _, u := range page.Users {
					got = append(got, u.UserID)
					if u.UserID == id && (u.Email != "Ada@example.com" || u.Name != "Ada" || u.CreatedAt != begin || u.UpdatedAt != begin) {
						t.Errorf("%+v", u)
					}
				}
				if request.After = page.Next; page.Next == 0 {
					n++
					break
				}
			}
			if !slices.Equal(got, want) || n != pages {
				t.Errorf("pages of %d: %v on %d, want %v on %d", limit, got, n, want, pages)
			}
		}
		page, err := snapshot.Users(t.Context(), auth.UsersSnapshotRequest{After: 1000})
		if err != nil || page.Users == nil || len(page.Users) != 0 || page.Next != 0 {
			t.Errorf("behind the last: %+v, %v", page, err)
		}
	})
}

func TestTheSnapshotRefuses(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		snapshot := handlers.Snapshot{Store: s.store, Sequence: sequence(0)}
		for _, request := range []auth.UsersSnapshotRequest{{Limit: -1}, {Limit: 501}, {After: -1}} {
			_, err := snapshot.Users(t.Context(), request)
			want(t, fmt.Sprint(request), err, auth.ErrInvalid)
		}
		snapshot.Sequence = func(context.Context) (uint64, error) { return 0, errors.New("no answer") }
		_, err := snapshot.Users(t.Context(), auth.UsersSnapshotRequest{})
		want(t, "without a stream", err, auth.ErrUnavailable)
		if fields := auth.Public(err).Fields; len(fields) != 1 || fields[0].Field != "events" {
			t.Errorf("%+v", fields)
		}
	})
}

// The sequence is read first: who registers in between may be on the page, and has an event
// with a higher one.
func TestTheSequenceIsReadBeforeTheUsers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		snapshot := handlers.Snapshot{Store: s.store, Sequence: func(context.Context) (uint64, error) {
			s.register(t)
			return 1, nil
		}}
		page, err := snapshot.Users(t.Context(), auth.UsersSnapshotRequest{})
		if err != nil || len(page.Users) != 1 || !strings.EqualFold(page.Users[0].Email, ada) {
			t.Errorf("%+v, %v", page, err)
		}
	})
}
