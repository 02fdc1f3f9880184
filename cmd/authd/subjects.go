package main

import (
	"context"
	"errors"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/handlers"
)

// serveSubjects registers the subjects of the service with the methods that answer them, except those
// that serveVerifiers registers.
func (s *service) serveSubjects(h useCases) error {
	return errors.Join(
		bus.HandleAsync(s.server, auth.Register, h.accounts.Register),
		bus.HandleAsync(s.server, auth.Login, h.sessions.Login),
		s.handleVerify(h.sessions),
		bus.HandleN(s.server, refreshesAtOnce, auth.Refresh, h.sessions.Refresh),
		bus.Handle(s.server, auth.Logout, h.sessions.Logout),
		bus.Handle(s.server, auth.AccountGet, h.accounts.Get),
		bus.Handle(s.server, auth.AccountUpdate, h.accounts.Update),
		bus.HandleAsync(s.server, auth.AccountDelete, h.accounts.Delete),
		bus.HandleAsync(s.server, auth.PasswordChange, h.accounts.ChangePassword),
		bus.HandleAsync(s.server, auth.EmailVerify, h.emails.Verify),
		bus.Handle(s.server, auth.EmailResend, h.emails.Resend),
		bus.HandleAsync(s.server, auth.EmailChange, h.emails.Change),
		bus.HandleAsync(s.server, auth.EmailConfirm, h.emails.Confirm),
		bus.Handle(s.server, auth.EmailUndo, h.emails.Undo),
		bus.Handle(s.server, auth.PasswordForgot, h.recovery.Forgot),
		bus.HandleAsync(s.server, auth.PasswordReset, h.recovery.Reset),
		bus.Handle(s.server, auth.NotMe, h.recovery.NotMe),
		bus.Handle(s.server, auth.LoginCode, h.codes.Login),
		bus.Handle(s.server, auth.SessionsList, h.sessions.List),
		bus.Handle(s.server, auth.SessionsRevoke, h.sessions.Revoke),
		bus.Handle(s.server, auth.SessionsRevokeOthers, h.sessions.RevokeOthers),
		bus.Handle(s.server, auth.UsersSnapshot, h.snapshot.Users),
		bus.Handle(s.server, auth.AdminUsersList, h.admin.List),
		bus.Handle(s.server, auth.AdminUsersGet, h.admin.Get),
		bus.Handle(s.server, auth.AdminUsersDisable, h.admin.Disable),
		bus.Handle(s.server, auth.AdminUsersEnable, h.admin.Enable),
		bus.Handle(s.server, auth.AdminUsersEndSessions, h.admin.EndSessions),
		bus.HandleAsync(s.server, auth.AdminUsersSetPassword, h.admin.SetPassword),
		bus.Handle(s.server, auth.Health, h.health.Check),
	)
}

// serveVerifiers registers the subjects that verifiers call, including the verifier of this process.
func (s *service) serveVerifiers(h useCases) error {
	return errors.Join(
		bus.Handle(s.server, auth.Keys, s.keys.Keys),
		bus.Handle(s.server, auth.Revocations, h.sessions.Revocations),
	)
}

// refreshesAtOnce is the number of refreshes that wait for the database concurrently: refreshes that
// commit together share one wait for its disk.
const refreshesAtOnce = 32

// handleVerify registers auth.verify. It answers as every verifier does, without a database query, and
// queries the database only if the verifier cannot decide.
func (s *service) handleVerify(sessions *handlers.Sessions) error {
	if s.config.accessSecret != nil { // there are no public keys to verify with
		return bus.Handle(s.server, auth.Verify, sessions.Verify)
	}
	return bus.HandleN(s.server, max(2, cores), auth.Verify, func(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
		reply, err := s.verifier.Answer(ctx, req)
		if errors.Is(err, auth.ErrUnavailable) {
			return sessions.Verify(ctx, req)
		}
		return reply, err
	})
}
