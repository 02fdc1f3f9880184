package password

import (
	"testing"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

const (
	ordinary   = "correct horse battery"
	nonASCII   = "correct\u00a0horse\u3000battery"
	otherPlace = "correct horsebattery "
)

func TestEverySpaceIsAnOrdinaryOne(t *testing.T) {
	h := lowCost(t)
	for _, stored := range []string{ordinary, nonASCII} {
		hash, err := h.Hash(t.Context(), stored)
		if err != nil {
			t.Fatal(err)
		}
		for typed, want := range map[string]bool{ordinary: true, nonASCII: true, otherPlace: false, "correcthorsebattery": false} {
			if found, err := h.Compare(t.Context(), hash, typed); err != nil || found.Match != want {
				t.Errorf("%q against %q: %+v, %v", typed, stored, found, err)
			}
		}
		if found, _ := h.Compare(t.Context(), hash, ordinary); found.Stale {
			t.Error("stale")
		}
	}
}

// Before spaces were mapped, a password was keyed in NFC alone.
func TestPasswordStoredWithItsSpacesGoesOnMatching(t *testing.T) {
	h := lowCost(t)
	former, err := bcrypt.GenerateFromPassword(h.Peppers[0].digest(norm.NFC.String(nonASCII)), h.Cost)
	if err != nil {
		t.Fatal(err)
	}
	stored := scheme + h.Peppers[0].ID + string(former)
	if found, err := h.Compare(t.Context(), stored, nonASCII); err != nil || found != (Result{Match: true, Stale: true}) {
		t.Errorf("as it was typed: %+v, %v", found, err)
	}
	if found, err := h.Compare(t.Context(), stored, ordinary); err != nil || found.Match {
		t.Errorf("with other spaces: %+v, %v", found, err)
	}
}

// A mismatch takes as many comparisons as a match, whatever is stored: otherwise its time would
// tell an unknown address from a known one.
func TestEveryComparisonHasAsManyInputs(t *testing.T) {
	h := lowCost(t)
	for typed, want := range map[string]int{ordinary: 1, nonASCII: 2} {
		_, inputs, err := h.open(scheme+h.Peppers[0].ID+h.dummies[h.Cost], typed, spellings(typed))
		if err != nil || len(inputs) != want {
			t.Errorf("keyed: %d inputs, %v", len(inputs), err)
		}
		_, inputs, err = h.open(h.dummies[h.Cost], typed, spellings(typed))
		if err != nil || len(inputs) != want {
			t.Errorf("plain: %d inputs, %v", len(inputs), err)
		}
	}
}

func lowCost(t *testing.T) *Hasher {
	t.Helper()
	h, err := New([]Pepper{{ID: "00000000", Key: []byte("pepper")}}, bcrypt.MinCost, MinLength)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
