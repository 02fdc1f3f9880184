package embedded

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// RightsSubject is the subject on which a NATS server returns the rights of the requesting user.
const RightsSubject = "$SYS.REQ.USER.INFO"

// Lacking returns the rights that a part of authd in a role needs and a user lacks, such as
// "publish mail.>". reply is the reply of RightsSubject to that user. If one user has all roles
// (alone), the inboxes of the other roles are not needed, only the service's.
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
	if has == nil { // the user has no limits
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

// isNeeded reports whether a part of authd needs a right. The inboxes of the admin and the subscriber
// are optional: they are for replies to clients that an installation may not have.
func isNeeded(subject string, alone bool) bool {
	switch {
	case subject == RightsSubject, subject == discovery:
		return false // only for inspection by operators and clients
	case subject == "_R_.>":
		return false // for guests, which most servers refuse
	case strings.HasPrefix(subject, "_INBOX_service"):
		return true
	case strings.HasPrefix(subject, "_INBOX_admin"), strings.HasPrefix(subject, "_INBOX_subscriber"):
		return false
	case strings.HasPrefix(subject, "_INBOX_"):
		return !alone
	}
	return true
}

// permits reports whether a right covers all subjects that subject matches. A denied subject counts
// only if it covers all of them too: the roles themselves deny parts of the subjects that they allow.
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
