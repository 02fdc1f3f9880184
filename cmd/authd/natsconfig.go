package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/zyotra/auth/bus/embedded"
)

// natsConfigCommand is "authd nats-config". It connects to no server and requires no setting of serve.
type natsConfigCommand struct {
	Dir          string   `required:"" placeholder:"DIR" help:"Where the credentials are: a key for each role, DIR/service.nk and so on. Those that are absent are made, those that are there are kept. authd takes the directory as NATS_NKEY_SEED_FILE."`
	Servers      []string `placeholder:"HOST,…" help:"Servers of a cluster, three or more. Each takes its name from SERVER_NAME in its environment. Without any: one server."`
	TLS          string   `name:"tls" placeholder:"DIR" help:"Directory on the servers that has ca.pem, server.pem and server-key.pem. Without one: no TLS."`
	AnonymousApp bool     `help:"Let in clients without credentials, as apps: they may ask for what the API is for, and hear events."`
	Output       string   `placeholder:"FILE" help:"Where the configuration goes, with mode 0600; its directory is made if absent. Without one: standard output."`
	NSC          bool     `name:"nsc" help:"Print a script for nsc instead, for servers in operator mode. It leaves DIR/service.creds and so on, which authd takes as NATS_CREDS."`
}

func (cmd natsConfigCommand) Run(out io.Writer) error {
	text, err := cmd.text()
	if errors.Is(err, embedded.ErrServers) {
		return usageError("--servers: " + err.Error() + "; for example --servers=nats-1,nats-2,nats-3")
	}
	if err != nil {
		return err
	}
	if cmd.Output == "" {
		_, err = io.WriteString(out, text)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cmd.Output), 0o700); err != nil {
		return err
	}
	return os.WriteFile(cmd.Output, []byte(text), 0o600) // it may contain a password
}

func (cmd natsConfigCommand) text() (string, error) {
	if !cmd.NSC {
		return embedded.External{Dir: cmd.Dir, Servers: cmd.Servers, AnonymousApp: cmd.AnonymousApp, TLS: cmd.TLS}.Config()
	}
	if len(cmd.Servers) > 0 || cmd.TLS != "" || cmd.AnonymousApp {
		return "", usageError("--nsc is about users alone: --servers, --tls and --anonymous-app are for the configuration of servers")
	}
	dir, err := filepath.Abs(cmd.Dir) // the script may run in another directory
	if err != nil {
		return "", err
	}
	return embedded.NSC(dir)
}
