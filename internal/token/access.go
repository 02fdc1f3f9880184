package token

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
)

// Access is the content of an access token. Times are whole seconds in UTC.
type Access struct {
	ID        string // jti
	UserID    auth.UserID
	SessionID string
	Scopes    []string
	AMR       []string // RFC 8176
	AuthTime  time.Time
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// Issuer signs and reads access tokens. Name and Audience are required: without them
// Read accepts no token.
type Issuer struct {
	Name     string // iss
	Audience string // aud
}

// Principal returns the principal of the token.
func (a Access) Principal() auth.Principal {
	return auth.Principal{
		UserID: a.UserID, SessionID: a.SessionID, Scopes: a.Scopes, AMR: a.AMR,
		AuthTime: a.AuthTime, IssuedAt: a.IssuedAt, ExpiresAt: a.ExpiresAt,
	}
}

// accessClaims is Access on the wire. It never holds an address or a name.
type accessClaims struct {
	registered
	UserID   string   `json:"userId"` // repeats sub, for services written against the legacy service
	Scope    string   `json:"scope"`  // space-separated (RFC 8693 §4.2)
	AMR      []string `json:"amr"`
	AuthTime int64    `json:"auth_time"`
}

// Sign returns the access token for a, signed with k.
func (i Issuer) Sign(k Key, a Access) (string, error) {
	user := strconv.FormatInt(int64(a.UserID), 10)
	return sign(typeAccess, k, accessClaims{
		registered: registered{
			Issuer: i.Name, Audience: i.Audience, Subject: user,
			IssuedAt: a.IssuedAt.Unix(), NotBefore: a.IssuedAt.Unix(), Expires: a.ExpiresAt.Unix(),
			ID: a.ID, SessionID: a.SessionID,
		},
		UserID: user, Scope: strings.Join(a.Scopes, " "), AMR: a.AMR, AuthTime: a.AuthTime.Unix(),
	})
}

// Read returns the content of a valid access token. It returns auth.ErrTokenExpired for a token
// that was valid, auth.ErrInvalidToken for anything else, which includes a lifetime of more than
// MaxLifetime, and the error of find. It does not check whether the session is live.
func (i Issuer) Read(text string, find Find, now time.Time) (Access, error) {
	if i.Name == "" || i.Audience == "" {
		return Access{}, invalid(errors.New("no issuer or audience to check"))
	}
	claims, err := open(typeAccess, text, find)
	if err != nil {
		return Access{}, err
	}
	var c accessClaims
	if err := strictjson.UnmarshalKnown(claims, &c); err != nil {
		return Access{}, invalid(err)
	}
	if err := check(c, now, jwt.WithIssuer(i.Name), jwt.WithAudience(i.Audience)); err != nil {
		return Access{}, err
	}
	if time.Unix(c.IssuedAt, 0).After(now.Add(Leeway)) {
		return Access{}, invalid(errors.New("iat is in the future"))
	}
	return c.access()
}

func (c accessClaims) access() (Access, error) {
	user, err := strconv.ParseInt(c.Subject, 10, 64)
	if err != nil || user <= 0 || strconv.FormatInt(user, 10) != c.Subject || c.UserID != c.Subject {
		return Access{}, invalid(errors.New("sub is no user"))
	}
	if c.ID == "" || c.SessionID == "" || c.NotBefore == 0 || c.AuthTime == 0 || len(c.AMR) == 0 {
		return Access{}, invalid(errors.New("a claim is missing"))
	}
	if life := c.Expires - c.IssuedAt; life <= 0 || life > int64(MaxLifetime/time.Second) {
		return Access{}, invalid(errors.New("exp is not within the longest lifetime after iat"))
	}
	return Access{
		ID: c.ID, UserID: auth.UserID(user), SessionID: c.SessionID,
		Scopes: strings.Fields(c.Scope), AMR: c.AMR,
		AuthTime: time.Unix(c.AuthTime, 0).UTC(), IssuedAt: time.Unix(c.IssuedAt, 0).UTC(), ExpiresAt: time.Unix(c.Expires, 0).UTC(),
	}, nil
}
