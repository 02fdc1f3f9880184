package migrations

import (
	"slices"
	"testing"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth/internal/email"
)

func TestStoredAddressesAreFoldedAndCollisionsListed(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		up(t, db)
		addresses := []string{
			1: "ada@example.com", 2: "οδος@example.com", 3: "ΟΔΟΣ@example.com", 4: "µx@example.com", 5: "zoë@example.com",
			6: "ΑΒΣ@example.com", 7: "αβς@example.com", 8: "a\u3164@example.com",
		}
		former := []string{
			1: "ada@example.com", 2: "οδος@example.com", 3: "οδοσ@example.com", 4: "µx@example.com", 5: "zoë@example.com",
			6: "αβσ@example.com", 7: "αβς@example.com", 8: "a\u3164@example.com",
		}
		for id := 1; id < len(addresses); id++ {
			_, err := db.ExecContext(t.Context(), "INSERT INTO users (email, email_key, password, name, created_at, updated_at) VALUES (?, ?, '', '', '2026-03-01 12:00:00+00:00', '2026-03-01 12:00:00+00:00')", addresses[id], former[id])
			if err != nil {
				t.Fatal(err)
			}
		}
		// The step as it was before these accounts had been there.
		execute(t, db, "DELETE FROM schema_migrations WHERE name = '0019'")
		up(t, db)

		var keys []string
		if err := db.NewSelect().Table("users").Column("email_key").Order("id").Scan(t.Context(), &keys); err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(former[1:])
		mu, _ := email.Parse(addresses[4])
		want[3] = mu.Key // the others that change collide, or are not addresses any more
		if !slices.Equal(keys, want) {
			t.Errorf("keys %q, want %q", keys, want)
		}
		list, err := Collisions(t.Context(), db)
		if err != nil || !slices.Equal(list, []Collision{{UserID: 2, Holder: 3}, {UserID: 7, Holder: 6}}) {
			t.Errorf("collisions %v, %v", list, err)
		}

		// The account gets its key once the other account is gone.
		execute(t, db, "DELETE FROM users WHERE id = 3")
		list, err = Collisions(t.Context(), db)
		if err != nil || !slices.Equal(list, []Collision{{UserID: 2}, {UserID: 7, Holder: 6}}) {
			t.Errorf("collisions after the deletion %v, %v", list, err)
		}
		left := []Collision{{UserID: 7, Holder: 6}}
		if list, err = Refold(t.Context(), db); err != nil || !slices.Equal(list, left) {
			t.Errorf("folded again: %v, %v", list, err)
		}
		if list, err = Collisions(t.Context(), db); err != nil || !slices.Equal(list, left) {
			t.Errorf("collisions after that: %v, %v", list, err)
		}

		// Another instance has folded the address since it was read.
		if list, err := addCollision(t.Context(), db, nil, 6, keyOf(t, db, 6)); err != nil || list != nil {
			t.Errorf("an account collides with itself: %v, %v", list, err)
		}
	})
}

func keyOf(t *testing.T, db *bun.DB, id int64) (key string) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT email_key FROM users WHERE id = ?", id).Scan(&key); err != nil {
		t.Fatal(err)
	}
	return key
}
