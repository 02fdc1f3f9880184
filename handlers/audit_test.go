package handlers_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
)

// journal is the log of outcomes. Requests come one by one.
type journal struct{ text bytes.Buffer }

func (j *journal) log() *slog.Logger {
	return slog.New(slog.NewJSONHandler(&j.text, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// record is what one says, but for the time.
type record struct {
	Level, Msg, Subject, Outcome, Reason, Method, Email, IP string
	UserID                                                  int64
}

// one wants exactly one record since the last time.
func (j *journal) one(t *testing.T, want record) {
	t.Helper()
	text := j.text.String()
	j.text.Reset()
	var got record
	if err := json.Unmarshal([]byte(text), &got); err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("want one line, got %q: %v", text, err)
	}
	want.Msg = "authentication"
	if want.Level == "" {
		want.Level = "INFO"
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

var office = auth.Sender{Client: &auth.ClientInfo{IP: "::ffff:192.0.2.1", UserAgent: "curl/8"}}

const officeIP = "192.0.2.1"

func TestEachAttemptIsLoggedOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		var j journal
		s.sessions.Log, s.accounts.Log = j.log(), j.log()
		admin := operator(s)
		admin.Log = j.log()
		login := func(address, password string) (auth.LoginReply, error) {
			return s.sessions.Login(t.Context(), auth.LoginRequest{Email: address, Password: password, Sender: office})
		}
		register := func() error {
			_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: horse, Sender: office})
			return err
		}

		want(t, "register", register(), nil)
		j.one(t, record{Subject: "auth.register", Outcome: "success", Method: "pwd", UserID: 1, IP: officeIP})
		want(t, "again", register(), auth.ErrEmailTaken)
		j.one(t, record{Subject: "auth.register", Outcome: "refused", Reason: "email_taken", Method: "pwd", Email: "A***@E***.com", IP: officeIP})

		_, err := login(ada, "wrong")
		want(t, "wrong password", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.login", Outcome: "refused", Reason: "wrong_password", Method: "pwd", UserID: 1, IP: officeIP})
		_, err = login("mallory\n{\"msg\":\"authentication\"}@evil.example", "wrong")
		want(t, "nobody", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.login", Outcome: "refused", Reason: "unknown_address", Method: "pwd", Email: "m***@e***.example", IP: officeIP})
		if _, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Sender: auth.Sender{Client: &auth.ClientInfo{IP: "office\n"}}}); err == nil {
			t.Error("an address that is none is taken")
		}
		j.one(t, record{Subject: "auth.login", Outcome: "refused", Reason: "validation_failed", Method: "pwd", Email: "A***@E***.com"})
		first, err := login(ada, horse)
		want(t, "login", err, nil)
		j.one(t, record{Subject: "auth.login", Outcome: "success", Method: "pwd", UserID: 1, IP: officeIP})

		second := s.refresh(t, first.Tokens)
		j.one(t, record{Subject: "auth.refresh", Outcome: "success", Method: "refresh_token", UserID: 1})
		_, err = s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: second.RefreshToken, Carrier: auth.CarrierCookie})
		want(t, "another carrier", err, auth.ErrInvalidToken)
		j.one(t, record{Subject: "auth.refresh", Outcome: "refused", Reason: "other_carrier", Method: "refresh_token", UserID: 1})
		s.advance(time.Minute)
		_, err = s.tryRefresh(t, first.RefreshToken)
		want(t, "reuse", err, auth.ErrTokenRevoked)
		j.one(t, record{Level: "WARN", Subject: "auth.refresh", Outcome: "refused", Reason: "token_reuse", Method: "refresh_token", UserID: 1})
		_, err = s.tryRefresh(t, "noise\n")
		want(t, "noise", err, auth.ErrInvalidToken)
		j.one(t, record{Subject: "auth.refresh", Outcome: "refused", Reason: "invalid_token", Method: "refresh_token"})

		_, err = s.sessions.Logout(t.Context(), auth.LogoutRequest{RefreshToken: second.RefreshToken, Sender: office})
		want(t, "logout", err, nil)
		j.one(t, record{Subject: "auth.logout", Outcome: "success", Method: "refresh_token", UserID: 1, IP: officeIP})
		want(t, "logout of nobody", s.logout(t, "", ""), auth.ErrUnauthenticated)
		j.one(t, record{Subject: "auth.logout", Outcome: "refused", Reason: "unauthenticated", Method: "access_token"})

		own := auth.Bearer{AccessToken: s.login(t).AccessToken}
		j.text.Reset()
		_, err = s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: own, CurrentPassword: "wrong", NewPassword: staple, Sender: office})
		want(t, "wrong current password", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.password.change", Outcome: "refused", Reason: "wrong_password", Method: "pwd", UserID: 1, IP: officeIP})
		renewed, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: own, CurrentPassword: horse, NewPassword: staple})
		want(t, "change", err, nil)
		own = s.bearer(renewed.Tokens)
		j.one(t, record{Subject: "auth.password.change", Outcome: "success", Method: "pwd", UserID: 1})
		_, err = s.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{Bearer: own})
		want(t, "end others", err, nil)
		j.one(t, record{Subject: "auth.sessions.revoke_others", Outcome: "success", Method: "access_token", UserID: 1})
		_, err = s.sessions.Revoke(t.Context(), auth.SessionsRevokeRequest{Bearer: own, SessionID: "x"})
		want(t, "end what is not there", err, auth.ErrNotFound)
		j.one(t, record{Subject: "auth.sessions.revoke", Outcome: "refused", Reason: "not_found", Method: "access_token", UserID: 1})

		_, err = admin.Disable(t.Context(), auth.AdminUsersDisableRequest{UserID: 1})
		want(t, "disable", err, nil)
		j.one(t, record{Subject: "auth.admin.users.disable", Outcome: "success", Method: "operator", UserID: 1})
		_, err = login(ada, staple)
		want(t, "disabled", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.login", Outcome: "refused", Reason: "user_disabled", Method: "pwd", UserID: 1, IP: officeIP})
		_, err = admin.Enable(t.Context(), auth.AdminUsersEnableRequest{UserID: 1})
		want(t, "enable", err, nil)
		j.one(t, record{Subject: "auth.admin.users.enable", Outcome: "success", Method: "operator", UserID: 1})
		_, err = admin.SetPassword(t.Context(), auth.AdminUsersSetPasswordRequest{UserID: 1, Password: horse})
		want(t, "set a password", err, nil)
		j.one(t, record{Subject: "auth.admin.users.set_password", Outcome: "success", Method: "operator", UserID: 1})
		_, err = admin.EndSessions(t.Context(), auth.AdminUsersEndSessionsRequest{UserID: 2})
		want(t, "end nobody's sessions", err, auth.ErrNotFound)
		j.one(t, record{Subject: "auth.admin.users.end_sessions", Outcome: "refused", Reason: "not_found", Method: "operator", UserID: 2})

		own = auth.Bearer{AccessToken: s.login(t).AccessToken}
		j.text.Reset()
		_, err = s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: own, Sender: office})
		want(t, "delete without the password", err, auth.ErrReauthentication)
		j.one(t, record{Subject: "auth.account.delete", Outcome: "refused", Reason: "reauthentication_required", Method: "access_token", UserID: 1, IP: officeIP})
		_, err = s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: own, Password: horse, Sender: office})
		want(t, "delete", err, nil)
		j.one(t, record{Subject: "auth.account.delete", Outcome: "success", Method: "pwd", UserID: 1, IP: officeIP})

		want(t, "close", s.store.Close(), nil)
		_, err = login(ada, horse)
		if auth.Public(err).Code != auth.CodeInternal {
			t.Errorf("without a database: %v", err)
		}
		j.one(t, record{Subject: "auth.login", Outcome: "failed", Reason: "internal", Method: "pwd", Email: "A***@E***.com", IP: officeIP})
	})
}

// operator is what operators ask of a service.
func operator(s *service) *handlers.Admin {
	return &handlers.Admin{Store: s.store, Accounts: s.accounts, Sessions: s.sessions, Clock: s.now}
}

func TestEachAttemptByMailIsLoggedOnce(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		var j journal
		p.sessions.Log, p.accounts.Log, p.emails.Log, p.recovery.Log, p.codes.Log = j.log(), j.log(), j.log(), j.log(), j.log()
		register := func(address string) {
			t.Helper()
			_, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: address, Password: horse, Sender: office})
			want(t, "register", err, nil)
			j.one(t, record{Subject: "auth.register", Outcome: "success", Method: "pwd", Email: address[:1] + "***@e***.com", IP: officeIP})
		}
		link := func() string {
			t.Helper()
			mails := p.posted(t)
			_, token, _ := strings.Cut(mails[len(mails)-1].Link, "#token=")
			token, _, _ = strings.Cut(token, "&")
			return token
		}

		register(adas)
		token := link()
		_, err := p.sessions.Login(t.Context(), auth.LoginRequest{Email: adas, Password: horse, Sender: office})
		want(t, "before it is verified", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.login", Outcome: "refused", Reason: "address_not_verified", Method: "pwd", Email: "A***@e***.com", IP: officeIP})
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: token, Sender: office})
		want(t, "verify without a password", err, auth.ErrReauthentication)
		j.one(t, record{Subject: "auth.email.verify", Outcome: "refused", Reason: "reauthentication_required", Method: "link", Email: "A***@e***.com", IP: officeIP})
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: token, Password: horse, Sender: office})
		want(t, "verify", err, nil)
		j.one(t, record{Subject: "auth.email.verify", Outcome: "success", Method: "link", UserID: 1, IP: officeIP})
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Email: adas, Code: "00000000", Sender: office})
		want(t, "a code", err, auth.ErrInvalidToken)
		j.one(t, record{Subject: "auth.email.verify", Outcome: "refused", Reason: "invalid_token", Method: "otp", Email: "A***@e***.com", IP: officeIP})
		_, err = p.emails.Resend(t.Context(), auth.EmailResendRequest{Email: bobs, Sender: office})
		want(t, "resend", err, nil)
		j.one(t, record{Subject: "auth.email.resend", Outcome: "success", Method: "mail", Email: "b***@e***.com", IP: officeIP})

		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: adas, Sender: office})
		want(t, "ask for a code", err, nil)
		j.one(t, record{Subject: "auth.login.code", Outcome: "success", Method: "mail", Email: "A***@e***.com", IP: officeIP})
		mails := p.posted(t)
		code := mails[len(mails)-1].Code
		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: adas, Code: "x" + code, Sender: office})
		want(t, "a wrong code", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.login.code", Outcome: "refused", Reason: "invalid_credentials", Method: "otp", Email: "A***@e***.com", IP: officeIP})
		reply, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: adas, Code: code, Sender: office})
		want(t, "the code", err, nil)
		j.one(t, record{Subject: "auth.login.code", Outcome: "success", Method: "otp", UserID: 1, IP: officeIP})

		own := auth.Bearer{AccessToken: reply.AccessToken}
		_, err = p.emails.Change(t.Context(), auth.EmailChangeRequest{Bearer: own, NewEmail: bobs, Password: "wrong", Sender: office})
		want(t, "change of address, wrong password", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.email.change", Outcome: "refused", Reason: "wrong_password", Method: "pwd", UserID: 1, IP: officeIP})
		_, err = p.emails.Change(t.Context(), auth.EmailChangeRequest{Bearer: own, NewEmail: bobs, Password: horse})
		want(t, "change of address", err, nil)
		j.one(t, record{Subject: "auth.email.change", Outcome: "success", Method: "pwd", UserID: 1})
		change := link()
		_, err = p.emails.Confirm(t.Context(), auth.EmailConfirmRequest{Token: change, Password: "wrong", Sender: office})
		want(t, "confirm, wrong password", err, auth.ErrInvalidCredentials)
		j.one(t, record{Subject: "auth.email.confirm", Outcome: "refused", Reason: "wrong_password", Method: "link", UserID: 1, IP: officeIP})
		_, err = p.emails.Confirm(t.Context(), auth.EmailConfirmRequest{Token: change, Password: horse, Sender: office})
		want(t, "confirm", err, nil)
		j.one(t, record{Subject: "auth.email.confirm", Outcome: "success", Method: "link", UserID: 1, IP: officeIP})
		_, err = p.emails.Undo(t.Context(), auth.EmailUndoRequest{Token: link()})
		want(t, "undo", err, nil)
		j.one(t, record{Subject: "auth.email.undo", Outcome: "success", Method: "link", UserID: 1})
		_, err = p.recovery.Reset(t.Context(), auth.PasswordResetRequest{Token: link(), NewPassword: "short"})
		want(t, "a poor password", err, auth.ErrInvalid)
		j.one(t, record{Subject: "auth.password.reset", Outcome: "refused", Reason: "validation_failed", Method: "link", UserID: 1})
		_, err = p.recovery.Forgot(t.Context(), auth.PasswordForgotRequest{Email: adas, Sender: office})
		want(t, "forgot", err, nil)
		j.one(t, record{Subject: "auth.password.forgot", Outcome: "success", Method: "mail", Email: "A***@e***.com", IP: officeIP})
		_, err = p.recovery.Reset(t.Context(), auth.PasswordResetRequest{Token: link(), NewPassword: staple})
		want(t, "reset", err, nil)
		j.one(t, record{Subject: "auth.password.reset", Outcome: "success", Method: "link", UserID: 1})
		_, err = p.recovery.NotMe(t.Context(), auth.NotMeRequest{Token: link()})
		want(t, "not me", err, nil)
		j.one(t, record{Subject: "auth.password.not_me", Outcome: "success", Method: "link", UserID: 1})
	})
}
