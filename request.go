package auth

import (
	"fmt"
	"strings"
)

// Bearer is embedded in requests made on behalf of a user. The access token is no member
// of the request: it travels in the header "Authorization: Bearer …", on the bus as over
// HTTP.
type Bearer struct {
	AccessToken string `json:"-"`
}

// Credential returns where the access token is kept, for whoever carries the request.
func (b *Bearer) Credential() *string { return &b.AccessToken }

// ParseBearer returns the token of an Authorization header: "Bearer", in any letter case, one or
// more spaces, and one token (RFC 6750 §2.1). ok is false for anything else.
func ParseBearer(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !isBearer(scheme) {
		return "", false
	}
	if token = strings.TrimLeft(token, " "); token == "" {
		return "", false
	}
	for _, not := range []string{" ", "\t", ","} { // one after the other is faster than any of them
		if strings.Contains(token, not) {
			return "", false
		}
	}
	return token, true
}

// isBearer reports whether an authentication scheme is that of RFC 6750.
func isBearer(scheme string) bool { return strings.EqualFold(scheme, "Bearer") }

// ErrTwoCredentials refuses a request that authenticates in more than one way (RFC 6750 §2).
var ErrTwoCredentials = fmt.Errorf("%w: two credentials", ErrMalformed)

// BearerToken returns the token of a request's Authorization headers, "" if it has none: another
// scheme, such as Basic, is no credential of this service. It returns ErrInvalidToken for a header
// that has no scheme or is of the scheme Bearer and without one token, and ErrTwoCredentials for more
// than one header.
func BearerToken(headers []string) (string, error) {
	switch len(headers) {
	case 0:
		return "", nil
	case 1:
		token, ok := ParseBearer(headers[0])
		if scheme, _, hasScheme := strings.Cut(headers[0], " "); !ok && hasScheme && !isBearer(scheme) {
			return "", nil
		}
		if !ok && headers[0] != "" {
			return "", ErrInvalidToken
		}
		return token, nil
	}
	return "", ErrTwoCredentials
}

// Sender is embedded in requests whose sender is worth remembering.
type Sender struct {
	Client *ClientInfo `json:"client,omitempty"`
}

// From returns where the sender is kept, for whoever carries the request.
func (o *Sender) From() **ClientInfo { return &o.Client }

// ClientInfo tells where a request comes from. The edge fills it; other callers of the bus may.
type ClientInfo struct {
	IP        string `json:"ip,omitempty"`        // IPv4 or IPv6 address in text form
	UserAgent string `json:"userAgent,omitempty"` // as sent; at most 512 bytes are kept
}

// HealthRequest asks whether requests would succeed.
type HealthRequest struct{}

// HealthReply says that they would. Otherwise the reply is ErrUnavailable, and its fields
// name the part that is away.
type HealthReply struct {
	Status   string   `json:"status"`             // "ready", or "degraded" if something has to wait
	Degraded []string `json:"degraded,omitempty"` // the parts for which something waits: "events", "jetstream"
}
