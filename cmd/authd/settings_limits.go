package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/persistence"
)

// Bounds of a limit. A user must not wait for longer than a quarter of an hour because of others'
// attempts, and a client must not guess a hundred times in a row (NIST SP 800-63B-4 §3.2.2).
const (
	mostBurst        = 1000
	mostAccountBurst = 99
	leastInterval    = 100 * time.Millisecond
	mostInterval     = 15 * time.Minute
)

// rules parses all limits.
func (s limitSettings) rules() (*ratelimit.Policy, error) {
	var r ratelimit.Policy
	var session []gcra.Limit
	for _, setting := range []struct {
		name, value string
		mostBurst   int
		tiers       int
		into        *[]gcra.Limit
		example     string
	}{
		{"LIMIT_LOGIN", s.LimitLogin, mostAccountBurst, persistence.Tiers, &r.Login, "5/30s,20/5m"},
		{"LIMIT_LOGIN_ACCOUNT", s.LimitLoginAccount, mostAccountBurst, persistence.Tiers, &r.LoginAccount, "50/1m"},
		{"LIMIT_LOGIN_SOURCE", s.LimitLoginSource, mostBurst, persistence.Tiers, &r.LoginSource, "100/5s"},
		{"LIMIT_REGISTER_SOURCE", s.LimitRegisterSource, mostBurst, persistence.Tiers, &r.RegisterSource, "20/1m"},
		{"LIMIT_CODE", s.LimitCode, mostAccountBurst, persistence.Tiers, &r.Code, "5/1m,20/5m"},
		{"LIMIT_CODE_ACCOUNT", s.LimitCodeAccount, mostAccountBurst, persistence.Tiers, &r.CodeAccount, "20/2m"},
		{"LIMIT_MAIL", s.LimitMail, mostAccountBurst, persistence.Tiers, &r.Mail, "3/1m,10/10m"},
		{"LIMIT_MAIL_ACCOUNT", s.LimitMailAccount, mostAccountBurst, persistence.Tiers, &r.MailAccount, "10/5m"},
		{"LIMIT_MAIL_SOURCE", s.LimitMailSource, mostBurst, persistence.Tiers, &r.MailSource, "30/1m"},
		{"LIMIT_UPDATE", s.LimitUpdate, mostBurst, persistence.Tiers, &r.Update, "30/2s"},
		{"LIMIT_REFRESH_SESSION", s.LimitRefreshSession, mostBurst, 1, &session, "30/2s"},
	} {
		limits, fault := readLimits(setting.value, setting.mostBurst, setting.tiers)
		if fault != "" {
			return nil, &settingError{setting.name, fmt.Sprintf("%q %s", setting.value, fault), setting.example}
		}
		*setting.into = limits
	}
	r.RefreshSession = session[0]
	return &r, nil
}

// readLimits parses limits as in "5/30s,20/5m". fault describes the error; "" is none.
func readLimits(text string, mostBurst, tiers int) (limits []gcra.Limit, fault string) {
	parts := strings.Split(text, ",")
	if len(parts) > tiers {
		return nil, fmt.Sprintf("has more than %d of BURST/INTERVAL", tiers)
	}
	for i, part := range parts {
		limit, fault := readLimit(part, mostBurst)
		if fault != "" {
			return nil, fault
		}
		if i > 0 && (limit.Burst <= limits[i-1].Burst || limit.Interval <= limits[i-1].Interval) {
			return nil, "does not grow: a second limit has more of a burst and a longer interval"
		}
		limits = append(limits, limit)
	}
	return limits, ""
}

func readLimit(text string, mostBurst int) (gcra.Limit, string) {
	count, every, _ := strings.Cut(text, "/")
	burst, err := strconv.ParseUint(count, 10, 32)
	if err != nil || burst < 1 || burst > uint64(mostBurst) {
		return gcra.Limit{}, fmt.Sprintf("is not BURST/INTERVAL with a burst from 1 to %d", mostBurst)
	}
	interval, err := time.ParseDuration(every)
	if err != nil || interval < leastInterval || interval > mostInterval {
		return gcra.Limit{}, fmt.Sprintf("is not BURST/INTERVAL with an interval from %s to %s", leastInterval, mostInterval)
	}
	return gcra.Limit{Burst: int(burst), Interval: interval}, ""
}

// limitSettings set the number of allowed attempts: a burst, and then one each interval.
type limitSettings struct {
	LimitLogin          string `env:"LIMIT_LOGIN" default:"5/30s,20/5m" placeholder:"LIMITS" help:"Tries at the password of an account from one source: so many at once, and then one each interval. A second limit, with more of both, is for those who go on."`
	LimitLoginAccount   string `env:"LIMIT_LOGIN_ACCOUNT" default:"50/1m" placeholder:"LIMITS" help:"Tries at the password of an account from everywhere; sources where its owner is logged in are let through."`
	LimitLoginSource    string `env:"LIMIT_LOGIN_SOURCE" default:"100/5s" placeholder:"LIMITS" help:"Tries at passwords of any accounts from one source."`
	LimitRegisterSource string `env:"LIMIT_REGISTER_SOURCE" default:"20/1m" placeholder:"LIMITS" help:"Registrations from one source."`
	LimitCode           string `env:"LIMIT_CODE" default:"5/1m,20/5m" placeholder:"LIMITS" help:"Tries at a code from a mail to an address, from one source."`
	LimitCodeAccount    string `env:"LIMIT_CODE_ACCOUNT" default:"20/2m" placeholder:"LIMITS" help:"Tries at a code from a mail to an address, from everywhere."`
	LimitMail           string `env:"LIMIT_MAIL" default:"3/1m,10/10m" placeholder:"LIMITS" help:"Mails to an address that are asked for from one source."`
	LimitMailAccount    string `env:"LIMIT_MAIL_ACCOUNT" default:"10/5m" placeholder:"LIMITS" help:"Mails to an address that are asked for from everywhere; and notices to one."`
	LimitMailSource     string `env:"LIMIT_MAIL_SOURCE" default:"30/1m" placeholder:"LIMITS" help:"Mails to any addresses that are asked for from one source."`
	LimitRefreshSession string `env:"LIMIT_REFRESH_SESSION" default:"30/2s" placeholder:"LIMIT" help:"Refreshes of a session."`
	LimitUpdate         string `env:"LIMIT_UPDATE" default:"30/2s" placeholder:"LIMITS" help:"Changes of an account's name or locale by its user."`
}
