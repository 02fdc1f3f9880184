package embedded_test

import (
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth/bus/embedded"
)

// What the server tells of each part's user is what that part needs, and of another's is not.
func TestLacking(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	told := map[string][]byte{}
	parts := []string{embedded.Service, embedded.Relay, embedded.Edge, embedded.Mailer}
	for _, role := range parts {
		reply, err := dial(t, s, role).Request(embedded.RightsSubject, nil, time.Minute)
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		told[role] = reply.Data
	}
	for _, role := range parts {
		for _, of := range parts {
			lacks, err := embedded.Lacking(role, told[of], false)
			if err != nil || (len(lacks) == 0) != (role == of) {
				t.Errorf("%s as %s lacks %q, %v", role, of, lacks, err)
			}
		}
	}
	if lacks, _ := embedded.Lacking(embedded.Mailer, told[embedded.Relay], true); slices.Contains(lacks, "subscribe _INBOX_mailer.>") {
		t.Errorf("one user for all has the service's inbox alone, and lacks %q", lacks)
	}
	unbounded := []byte(`{"data":{"user":"u","account":"A"}}`)
	if lacks, err := embedded.Lacking(embedded.Relay, unbounded, false); err != nil || len(lacks) > 0 {
		t.Errorf("whoever has no bounds lacks %q, %v", lacks, err)
	}
	denied := []byte(`{"data":{"permissions":{"publish":{"deny":["mail.>"]}}}}`)
	if lacks, err := embedded.Lacking(embedded.Relay, denied, false); err != nil || !slices.Equal(lacks, []string{"publish mail.>"}) {
		t.Errorf("what is denied: %q, %v", lacks, err)
	}
	if _, err := embedded.Lacking(embedded.Relay, []byte("?"), false); err == nil {
		t.Error("what is no reply is believed")
	}
}
