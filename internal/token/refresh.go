package token

import (
	"errors"
	"strconv"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
)

// Refresh is the content of a refresh token. It is derived only from the session's row, so every
// instance with the same key writes the same token for a generation, byte for byte.
type Refresh struct {
	UserID     auth.UserID
	SessionID  string
	Generation int64
	IssuedAt   time.Time // whole seconds, UTC
	ExpiresAt  time.Time // whole seconds, UTC
}

// refreshClaims is Refresh on the wire. It has no issuer and no audience: only this service
// reads it, and the key has no other use.
type refreshClaims struct {
	registered
	Generation int64 `json:"gen"`
}

// SignRefresh returns the refresh token for r, signed with k.
func SignRefresh(k Key, r Refresh) (string, error) {
	return sign(typeRefresh, k, refreshClaims{
		registered: registered{
			Subject:  strconv.FormatInt(int64(r.UserID), 10),
			IssuedAt: r.IssuedAt.Unix(), Expires: r.ExpiresAt.Unix(),
			ID: r.SessionID + "." + strconv.FormatInt(r.Generation, 10), SessionID: r.SessionID,
		},
		Generation: r.Generation,
	})
}

// ReadRefresh returns the content of a valid refresh token that was signed with one of the keys.
// It returns auth.ErrTokenExpired for a token that was valid, and auth.ErrInvalidToken for
// anything else. It does not check whether the session is live, nor its generation.
// A token with a future iat is valid: only this service signs, so its clock was ahead,
// and the session's row decides.
func ReadRefresh(text string, keys []Key, now time.Time) (Refresh, error) {
	c, err := openRefresh(text, keys)
	if err != nil {
		return Refresh{}, err
	}
	if err := check(c, now); err != nil {
		return Refresh{}, err
	}
	return c.refresh()
}

// ReadRefreshToEnd is ReadRefresh for tokens of any age: the holder of an expired token may still
// end its session.
func ReadRefreshToEnd(text string, keys []Key) (Refresh, error) {
	c, err := openRefresh(text, keys)
	if err != nil {
		return Refresh{}, err
	}
	return c.refresh()
}

func openRefresh(text string, keys []Key) (c refreshClaims, err error) {
	claims, err := open(typeRefresh, text, func(kid string) ([]Key, error) {
		if kid != "" {
			return nil, nil
		}
		return keys, nil
	})
	if err != nil {
		return refreshClaims{}, err
	}
	if err := strictjson.UnmarshalKnown(claims, &c); err != nil {
		return refreshClaims{}, invalid(err)
	}
	return c, nil
}

func (c refreshClaims) refresh() (Refresh, error) {
	user, err := strconv.ParseInt(c.Subject, 10, 64)
	if err != nil || user <= 0 || c.SessionID == "" || c.Generation <= 0 {
		return Refresh{}, invalid(errors.New("a claim is missing"))
	}
	return Refresh{
		UserID: auth.UserID(user), SessionID: c.SessionID, Generation: c.Generation,
		IssuedAt: time.Unix(c.IssuedAt, 0).UTC(), ExpiresAt: time.Unix(c.Expires, 0).UTC(),
	}, nil
}
