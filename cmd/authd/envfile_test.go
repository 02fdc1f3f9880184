package main

import "testing"

func TestParseEnvLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][2]string{
		"":                           {},
		"  # PORT=1\n":               {},
		"; PORT=1":                   {},
		"PORT=3000\n":                {"PORT", "3000"},
		"PORT=3000\r\n":              {"PORT", "3000"},
		"export PORT = 3000 ":        {"PORT", "3000"},
		"PORT=":                      {"PORT", ""},
		"PORT=''":                    {"PORT", ""},
		"SECRET_KEY=6Bf1$Hc5":        {"SECRET_KEY", "6Bf1$Hc5"},
		`SECRET_KEY="6Bf1$Hc5 ${x}"`: {"SECRET_KEY", "6Bf1$Hc5 ${x}"},
		`SECRET_KEY='6Bf1$Hc5\n"'`:   {"SECRET_KEY", `6Bf1$Hc5\n"`},
		"SECRET_KEY=a=b#c'd":         {"SECRET_KEY", "a=b#c'd"},
	} {
		name, value, err := parseEnvLine(line)
		if err != nil || name != want[0] || value != want[1] {
			t.Errorf("%q is %q, %q, %v", line, name, value, err)
		}
	}
	for _, line := range []string{
		"PORT", "=3000", "2PORT=1", "PO RT=1", "PORT: 3000", "PORT=3000 # comment", `A=a\nb`, `A="a\nb"`, `A="a`, `A='a'b`, `A="a"b"`, "A=a\xff", "A=a\x00b", `A='`,
	} {
		if name, value, err := parseEnvLine(line); err == nil {
			t.Errorf("%q is %q, %q", line, name, value)
		}
	}
}
