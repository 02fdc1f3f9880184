package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// What lets somebody in waits sealed in the database, and is opened on its way out.
func TestAMailWaitsSealedInTheOutbox(t *testing.T) {
	t.Parallel()
	store, err := persistence.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "auth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := migrations.Up(t.Context(), store.DB()); err != nil {
		t.Fatal(err)
	}
	keys := func() secret.Keys {
		k, err := secret.Parse(secret.Generate())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	m := &Mails{Keys: keys()}
	now := time.Now().UTC().Truncate(time.Microsecond)
	mail := events.Mail{Kind: "reset_password", UserID: 7, To: "ada@example.com", Link: "https://auth.example/#token", At: now}
	err = store.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error { return m.request(ctx, tx, now, mail) })
	if err != nil {
		t.Fatal(err)
	}
	var waiting events.Event
	_, err = store.Take(t.Context(), 10, func(_ context.Context, list []events.Event) (int, error) {
		waiting = list[0]
		return 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if waiting.Type != events.MailType || bytes.Contains(waiting.Data, []byte("token")) || bytes.Contains(waiting.Data, []byte("ada")) {
		t.Errorf("%s: %s", waiting.Type, waiting.Data)
	}
	opened, err := m.Open(waiting)
	if err != nil {
		t.Fatal(err)
	}
	var got events.Mail
	if err := json.Unmarshal(opened.Data, &got); err != nil || !reflect.DeepEqual(got, mail) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := (&Mails{Keys: keys()}).Open(waiting); err == nil {
		t.Error("opened with another key")
	}
	other := events.Event{Type: "user.updated", Data: json.RawMessage(`{}`)}
	if same, err := m.Open(other); err != nil || !reflect.DeepEqual(same, other) {
		t.Errorf("%+v, %v", same, err)
	}
}
