package persistence

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestEverySQLStateHasAMeaning(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]faultKind{
		"08006": faultAway, "08P01": faultAway, "25006": faultReadOnly, "25P03": faultAway, "25P04": faultAway,
		"40001": faultAway, "40P01": faultAway, "53100": faultFull, "53300": faultAway, "55P03": faultAway,
		"57014": faultAway, "57P01": faultAway, "57P03": faultAway, "58030": faultAway, "23505": faultTaken,
		"0A000": faultOther, "22021": faultOther, "23502": faultOther, "25P02": faultOther, "42501": faultOther,
		"42P01": faultOther, "XX000": faultOther, "": faultOther,
	} {
		err := fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})
		if got := postgresFault(err); got != want {
			t.Errorf("%s is %d, want %d", code, got, want)
		}
	}
}
