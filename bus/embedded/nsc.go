package embedded

import (
	"fmt"
	"strings"
	"text/template"
)

var nscText = template.Must(template.New("nsc").Funcs(template.FuncMap{"shell": shell, "list": list}).Parse(
	`#!/bin/sh
# The roles of authd in operator mode, by "authd nats-config --nsc": users with JWTs instead of
# a list in the servers' configuration. Run it once, where nsc keeps its keys (nsc env).
set -eu
umask 077
mkdir -p {{shell .Dir}}

nsc add operator --name authd --sys
nsc add account --name APP
# What the servers allow is the limit.
nsc edit account --name APP --js-mem-storage -1 --js-disk-storage -1 --js-streams -1 --js-consumer -1
{{range .Roles}}
# {{.About}}
nsc add user --account APP --name {{.Name}} \
  --allow-pub {{list .Publish.Allow}} \
{{- with .Publish.Denied}}
  --deny-pub {{list .}} \
{{- end}}
{{- with .Subscribe.Denied}}
  --deny-sub {{list .}} \
{{- end}}
  --allow-sub {{list .Subscribe.Allow}}
nsc generate creds --account APP --name {{.Name}} --output-file {{shell (print $.Dir "/" .Name ".creds")}}
{{end}}
# The operators of the servers: nats server report, nats server raft
nsc generate creds --account SYS --name sys --output-file {{shell (print $.Dir "/sys.creds")}}

# For the servers: operator and accounts. Users that are made later need no change there.
nsc generate config --mem-resolver --sys-account SYS --config-file {{shell (print $.Dir "/resolver.conf")}}
`))

// NSC returns a shell script that makes the roles with nsc, for servers in operator mode. The
// script writes <role>.creds for each role, sys.creds, and resolver.conf for the servers to dir.
func NSC(dir string) (string, error) {
	var text strings.Builder
	err := nscText.Execute(&text, map[string]any{"Dir": strings.TrimRight(dir, "/"), "Roles": Roles()})
	if err != nil {
		return "", fmt.Errorf("commands of nsc: %w", err)
	}
	return text.String(), nil
}

// list returns subjects as one quoted word of a command; they contain no comma.
func list(subjects []string) string { return shell(strings.Join(subjects, ",")) }

// shell quotes a word for sh. Within single quotes, only a single quote is special (POSIX 2.2.2).
func shell(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
