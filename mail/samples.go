package mail

import (
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

// samples lists all kinds of mails that have a template, each with sample data.
var samples = byKind(
	events.Mail{
		Kind: events.MailVerify, Code: "49381705", Link: "https://auth.example.com/verify-email#token=Yk3vD0nqRz5sW8uXb2hJ4m",
		ExpiresAt: sampleTime.Add(24 * time.Hour), CodeExpiresAt: sampleTime.Add(10 * time.Minute),
	},
	events.Mail{
		Kind: events.MailTaken, Client: sampleClient, Device: sampleDevice,
	},
	events.Mail{
		Kind: events.MailReset, Link: "https://auth.example.com/reset-password#token=Yk3vD0nqRz5sW8uXb2hJ4m",
		ExpiresAt: sampleTime.Add(time.Hour), Client: sampleClient, Device: sampleDevice,
	},
	events.Mail{ // to the new address
		Kind: events.MailChange, Link: "https://auth.example.com/change-email#token=Yk3vD0nqRz5sW8uXb2hJ4m",
		ExpiresAt: sampleTime.Add(24 * time.Hour), Address: "ada@lovelace.example",
	},
	events.Mail{ // to the former address; Address is the new one, Link undoes the change
		Kind: events.MailChanged, Link: "https://auth.example.com/undo-email#token=Yk3vD0nqRz5sW8uXb2hJ4m",
		ExpiresAt: sampleTime.Add(7 * 24 * time.Hour), Address: "ada@lovelace.example", Client: sampleClient, Device: sampleDevice,
	},
	events.Mail{
		Kind: events.MailLoginCode, Code: "49381705", ExpiresAt: sampleTime.Add(10 * time.Minute), Client: sampleClient, Device: sampleDevice,
	},
	events.Mail{ // Link is for an owner who did not change the password
		Kind: events.MailPasswordChanged, Link: "https://auth.example.com/not-me#token=Yk3vD0nqRz5sW8uXb2hJ4m",
		ExpiresAt: sampleTime.Add(7 * 24 * time.Hour), Client: sampleClient, Device: sampleDevice,
	},
	events.Mail{ // Link is for an owner who did not log in
		Kind: events.MailNewDevice, Link: "https://auth.example.com/not-me#token=Yk3vD0nqRz5sW8uXb2hJ4m",
		ExpiresAt: sampleTime.Add(7 * 24 * time.Hour), Client: sampleClient, Device: sampleDevice,
	},
)

var (
	sampleTime   = time.Date(2026, time.November, 24, 11, 57, 0, 0, time.UTC)
	sampleClient = auth.ClientInfo{IP: "192.0.2.1", UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
)

const sampleDevice = "Firefox on Linux"

// byKind adds the members that all mails have, and returns the samples by kind.
func byKind(list ...events.Mail) map[events.MailKind]events.Mail {
	all := map[events.MailKind]events.Mail{}
	for _, m := range list {
		m.UserID, m.To, m.Name, m.At = 1, "ada@example.com", "Ada", sampleTime
		all[m.Kind] = m
	}
	return all
}
