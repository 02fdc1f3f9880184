package embedded

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// RightsSubject is where a NATS server tells whoever asks what they may.
const RightsSubject = "$SYS.REQ.USER.INFO"

// Lacking names what a part of authd in a role needs and a user may not, as in "publish mail.>".
// reply is what RightsSubject told that user. Where one user is everybody (alone), the inboxes of
// the roles are not needed, but for the service's.
func Lacking(role string, reply []byte, alone bool) (lacks []string, err error) {
	needs, err := lookup(role)
	if err != nil {
		return nil, err
	}
	var told struct {
		Data server.UserInfo `json:"data"`
	}
	if err := json.Unmarshal(reply, &told); err != nil {
		return nil, fmt.Errorf("rights of the user: %w", err)
	}
	has := told.Data.Permissions
	if has == nil { // no bounds
		return nil, nil
	}
	for _, subject := range needs.Publish.Allow {
		if isNeeded(subject, alone) && !permits(has.Publish, subject) {
			lacks = append(lacks, "publish "+subject)
		}
	}
	for _, subject := range needs.Subscribe.Allow {
		if isNeeded(subject, alone) && !permits(has.Subscribe, subject) {
			lacks = append(lacks, "subscribe "+subject)
		}
	}
	return lacks, nil
}

// isNeeded tells whether a part of authd does without a right. Inboxes of others are for answers to
// those who are there.
func isNeeded(subject string, alone bool) bool {
	switch {
	case subject == RightsSubject, subject == discovery:
		return false // to be looked at, or by
	case subject == "_R_.>":
		return false // for guests, whom most servers refuse
	case strings.HasPrefix(subject, "_INBOX_service"):
		return true
	case strings.HasPrefix(subject, "_INBOX_admin"), strings.HasPrefix(subject, "_INBOX_subscriber"):
		return false
	case strings.HasPrefix(subject, "_INBOX_"):
		return !alone
	}
	return true
}

// permits tells whether a right covers all that a subject matches. Of what is denied, only that
// counts which covers it too: the roles themselves deny parts of what they allow.
func permits(p *server.SubjectPermission, subject string) bool {
	if p == nil {
		return true
	}
	for _, denied := range p.Deny {
		if server.SubjectMatchesFilter(subject, denied) {
			return false
		}
	}
	for _, allowed := range p.Allow {
		if server.SubjectMatchesFilter(subject, allowed) {
			return true
		}
	}
	return len(p.Allow) == 0
}
