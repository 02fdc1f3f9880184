package handlers_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun/dialect"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/secret"
)

// dump is every value in the database as text; bytes also in hex and base64.
func (s *service) dump(t *testing.T) string {
	t.Helper()
	query := "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
	if s.store.DB().Dialect().Name() == dialect.SQLite {
		query = "SELECT name FROM sqlite_master WHERE type = 'table'"
	}
	var tables []string
	s.scan(t, &tables, query)
	var out strings.Builder
	for _, table := range tables {
		var rows []map[string]any
		s.scan(t, &rows, "SELECT * FROM "+table)
		for _, row := range rows {
			for column, value := range row {
				fmt.Fprintf(&out, "%s.%s = %v\n", table, column, value)
				if raw, ok := value.([]byte); ok {
					fmt.Fprintf(&out, "%s %s\n", raw, spellings(raw))
				}
			}
		}
	}
	return out.String()
}

func (s *service) scan(t *testing.T, into any, query string) {
	t.Helper()
	if err := s.store.DB().NewRaw(query).Scan(t.Context(), into); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func spellings(raw []byte) []string {
	return []string{string(raw), hex.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)}
}

func TestDatabaseHoldsNothingThatLogsIn(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		s.advance(time.Minute)
		second := s.refresh(t, first)
		ended := s.login(t)
		want(t, "logout", s.logout(t, "", ended.RefreshToken), nil)
		stored, err := s.store.SigningKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		master := parse(t, s.master)
		seed, err := master.Open(stored[0].Sealed, "signing_keys/"+stored[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		dump := s.dump(t)

		for _, kept := range []string{"Ada@example.com", first.SessionID, ended.SessionID, "$bcrypt-hmac-sha256$", hex.EncodeToString(stored[0].Sealed)} {
			if !strings.Contains(dump, kept) {
				t.Errorf("the dump lacks %s", kept)
			}
		}
		secrets := map[string][]string{
			"the password":     append(spellings([]byte(horse)), strings.Fields(horse)...),
			"the private seed": spellings(seed),
			"the master":       {s.master},
			"the pepper":       spellings(master[0].Derive(secret.LabelPepper)),
			"the refresh key":  spellings(master[0].Derive(secret.LabelRefresh)),
		}
		for _, tokens := range []auth.Tokens{first, second, ended.Tokens} {
			for _, text := range []string{tokens.AccessToken, tokens.RefreshToken} {
				parts := strings.Split(text, ".")
				secrets["a token"] = append(secrets["a token"], text, parts[1], parts[2])
			}
		}
		for name, texts := range secrets {
			for _, text := range texts {
				if strings.Contains(dump, text) {
					t.Errorf("the dump holds %s", name)
				}
			}
		}
	})
}
