package deploy_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v4"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testtool"
)

// exposition is what Prometheus reads, by the names of metrics.
type exposition map[string]*dto.MetricFamily

// scrape reads the metrics as text.
func scrape(t *testing.T, a *testauthd.Instance) string {
	t.Helper()
	resp, err := testauthd.Client.Get(a.Metrics)
	check(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	return string(text)
}

// expose reads the metrics as strictly as Prometheus does.
func expose(t *testing.T, a *testauthd.Instance) exposition {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(scrape(t, a)))
	check(t, err)
	return families
}

// value is that of the series with these labels, and whether there is one. Of a histogram it is the
// number of what was observed.
func (e exposition) value(name string, pairs ...string) (float64, bool) {
	family := e[name]
	for _, m := range family.GetMetric() {
		if !hasLabels(m, pairs) {
			continue
		}
		switch family.GetType() {
		case dto.MetricType_COUNTER:
			return m.GetCounter().GetValue(), true
		case dto.MetricType_HISTOGRAM:
			return float64(m.GetHistogram().GetSampleCount()), true
		}
		return m.GetGauge().GetValue(), true
	}
	return 0, false
}

func hasLabels(m *dto.Metric, pairs []string) bool {
	for i := 0; i < len(pairs); i += 2 {
		if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == pairs[i] && l.GetValue() == pairs[i+1] }) {
			return false
		}
	}
	return true
}

// is wants a series to have a value.
func (e exposition) is(t *testing.T, want float64, name string, pairs ...string) {
	t.Helper()
	if got, ok := e.value(name, pairs...); !ok || got != want {
		t.Errorf("%s %v is %v (there: %v), want %v", name, pairs, got, ok, want)
	}
}

// labelsOf are the names of the labels that a metric has.
func (e exposition) labelsOf(name string) (names []string) {
	for _, m := range e[name].GetMetric() {
		for _, l := range m.GetLabel() {
			names = append(names, l.GetName())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// busy is an instance that has had something to do: a user who logs in, mistypes and has a token
// stolen, somebody who guesses, and somebody who sends what nobody understands.
func busy(t *testing.T) *testauthd.Instance {
	t.Helper()
	a := testauthd.Start(t, "--refresh-grace=0")
	a.Post(t, "/register", testauthd.Credentials).Answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	session := a.Post(t, "/login", testauthd.Credentials)
	access, refresh := session.Member(t, "accessToken"), session.Member(t, "refreshToken")
	a.Get(t, "/verify", access)
	a.Get(t, "/verify", access)
	conn := a.AsApp(t)
	testauthd.Ask(t, conn, "auth.verify", nil, `{"token":"`+access+`"}`)
	a.Post(t, "/login", testauthd.Login("ada@example.com", "wrong horse battery")).Refused(t, 401, "invalid_credentials", "")
	a.Post(t, "/refresh", `{"refreshToken":"`+refresh+`"}`)
	a.Post(t, "/refresh", `{"refreshToken":"`+refresh+`"}`).Refused(t, 401, "token_revoked", "")
	for range 6 { // of which the last has to wait
		a.Post(t, "/login", testauthd.Login("nobody@example.com", "wrong horse battery"))
	}
	pester(t, a, conn)
	testauthd.Until(t, "the events are published", func() bool {
		published, _ := expose(t, a).value("authd_relay_published_total")
		return published >= 3
	})
	return a
}

// pester sends what has no meaning and would be remembered by who keeps what strangers send.
func pester(t *testing.T, a *testauthd.Instance, conn *nats.Conn) {
	t.Helper()
	a.Foreign = true // openapi.json does not describe it
	for i := range 20 {
		for _, line := range []string{
			"GET /ada%d@example.com", "POST /login/%d", "DELETE /sessions/ada%d@example.com", "PUT /me?%d", "FOO%d /me",
			"OPTIONS /%d", "GET /docs/%d", "GET //verify/../%d",
		} {
			a.Do(t, fmt.Sprintf(line, i), map[string][]string{"X-Request-Id": {fmt.Sprintf("ada%d@example.com", i)}}, "")
		}
		testauthd.Ask(t, conn, "auth.verify", nil, fmt.Sprintf(`{"token":"ada%d@example.com"}`, i))
		testauthd.Ask(t, conn, "auth.login", nil, fmt.Sprintf(`{"ada%d@example.com":1}`, i))
		check(t, conn.PublishRequest("auth.verify", fmt.Sprintf("ada.%d", i), nil)) // no inbox
		check(t, conn.Publish(fmt.Sprintf("auth.account.ada%d", i), nil))
	}
	check(t, conn.Flush())
	a.Foreign = false
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a := busy(t)
	text, e, values := scrape(t, a), expose(t, a), labelValues(t)
	t.Run("tell what happened", func(t *testing.T) { tellWhatHappened(t, e) })
	t.Run("tell of nobody", func(t *testing.T) { tellOfNobody(t, text, e, values) })
	t.Run("are named by convention", func(t *testing.T) {
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		check(t, err)
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "authd_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	})
	t.Run("are described", func(t *testing.T) { areDescribed(t, e) })
	t.Run("are what alarms look for", func(t *testing.T) {
		for _, r := range alarms(t) {
			asksForWhatThereIs(t, e, values, r.Alert, r.Expr)
		}
	})
	t.Run("are what the dashboard shows", func(t *testing.T) {
		for title, expr := range dashboard(t) {
			asksForWhatThereIs(t, e, values, title, expr)
		}
	})
	t.Run("are what the tests of alarms bring", func(t *testing.T) {
		for _, series := range alarmSeries(t) {
			asksForWhatThereIs(t, e, values, series, series)
		}
	})
}

func tellWhatHappened(t *testing.T, e exposition) {
	e.is(t, 1, "authd_ready")
	e.is(t, 1, "authd_build_info", "version", version(t))
	e.is(t, 1, "authd_bus_requests_total", "subject", "auth.register", "code", "ok")
	e.is(t, 1, "authd_bus_requests_total", "subject", "auth.login", "code", "ok")
	e.is(t, 6, "authd_bus_requests_total", "subject", "auth.login", "code", "invalid_credentials")
	e.is(t, 1, "authd_bus_requests_total", "subject", "auth.login", "code", "rate_limited")
	e.is(t, 1, "authd_bus_requests_total", "subject", "auth.verify", "code", "ok")
	e.is(t, 20, "authd_bus_requests_total", "subject", "auth.verify", "code", "malformed_request")
	e.is(t, 1, "authd_bus_requests_total", "subject", "auth.refresh", "code", "token_revoked")
	e.is(t, 28, "authd_bus_request_duration_seconds", "subject", "auth.login")
	e.is(t, 2, "authd_http_requests_total", "method", "GET", "route", "/verify", "status", "200")
	e.is(t, 20, "authd_http_requests_total", "method", "DELETE", "route", "/sessions/:id", "status", "401")
	e.is(t, 20, "authd_http_requests_total", "method", "none", "route", "none", "status", "400")
	e.is(t, 2, "authd_http_request_duration_seconds", "method", "GET", "route", "/verify")
	e.is(t, 8, "authd_hash_duration_seconds") // one for the registration, and one for each login but the one that waits
	e.is(t, 1, "authd_limit_refusals_total", "kind", "login")
	e.is(t, 1, "authd_sessions_started_total", "amr", "pwd")
	e.is(t, 1, "authd_sessions_ended_total", "reason", "token_reuse")
	e.is(t, 1, "authd_events_committed_total", "type", "user.registered")
	e.is(t, 0, "authd_outbox_events")
	e.is(t, 1, "authd_verifier_revocations")
	e.is(t, 1, "authd_verifier_keys")
	e.is(t, 1, "authd_nats_connected", "part", "relay")
	e.is(t, 1, "authd_database_connections_max", "pool", "write")
	e.is(t, 1, "authd_source_up", "source", "mail_queue")
}

// Each half of the service tells its own, and an edge alone when nobody answers it.
func TestMetricsOfTheEdgeAndOfTheRest(t *testing.T) {
	t.Parallel()
	edge, rest := testauthd.StartApart(t, testauthd.WithPostgres(testpg.URL(t))...)
	edge.Post(t, "/register", testauthd.Credentials).Answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	e := expose(t, rest)
	e.is(t, 1, "authd_ready")
	e.is(t, 1, "authd_bus_requests_total", "subject", "auth.register", "code", "ok")
	e.is(t, 0, "authd_database_waits_total", "pool", "all")
	e.has(t, false, "authd_http_requests_in_flight")
	e = expose(t, edge)
	e.is(t, 1, "authd_ready")
	e.is(t, 1, "authd_http_requests_total", "method", "POST", "route", "/register", "status", "201")
	e.is(t, 1, "authd_nats_connected", "part", "edge")
	for _, name := range []string{"authd_bus_requests_in_flight", "authd_outbox_events", "authd_hash_running", "authd_mail_queue_waiting", "authd_database_waits_total"} {
		e.has(t, false, name)
	}
	rest.Stop(t)
	testauthd.Until(t, "the edge has lost the bus", func() bool {
		connected, ok := expose(t, edge).value("authd_nats_connected", "part", "edge")
		return ok && connected == 0
	})
	e = expose(t, edge)
	e.is(t, 0, "authd_ready")
	e.is(t, 1, "authd_part_away", "part", "bus")
}

// has wants a metric to be there, or not.
func (e exposition) has(t *testing.T, want bool, name string) {
	t.Helper()
	if e[name] != nil != want {
		t.Errorf("%s is there: %v", name, !want)
	}
}

// While the database is away, what it would tell is missing, and everything else is there.
func TestMetricsWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	a := testauthd.Start(t, testauthd.WithPostgres(pg.URL)...)
	expose(t, a).is(t, 1, "authd_source_up", "source", "outbox")
	check(t, pg.Stop())
	e := expose(t, a)
	e.is(t, 0, "authd_ready")
	e.is(t, 1, "authd_part_away", "part", "database")
	e.is(t, 0, "authd_source_up", "source", "outbox")
	e.has(t, false, "authd_outbox_events")
	e.is(t, 1, "authd_source_up", "source", "mail_queue")
}

// labelValues are all values that labels may have, whatever strangers send.
func labelValues(t *testing.T) map[string][]string {
	t.Helper()
	values := map[string][]string{
		"code":      {"ok"},
		"status":    {"200", "201", "202", "204", "301", "302", "304", "408", "431", "502"},
		"method":    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "none"},
		"route":     {"none"},
		"kind":      {"login", "code", "mail", "register", "refresh", "update", "notice"},
		"amr":       {"pwd", "otp"},
		"part":      {"bus", "database", "revocations", "events", "jetstream", "edge", "mailer", "relay", "service"},
		"source":    {"outbox", "mail_queue"},
		"outcome":   {"ok", "failed", "sent", "retried", "given_up", "expired"},
		"pool":      {"all", "read", "write"},
		"state":     {"in_use", "idle"},
		"type":      {"mail.requested"},
		"version":   {version(t)},
		"reason":    {"logout", "ended_by_user", "password_changed", "password_reset", "email_changed", "token_reuse", "session_limit", "user_disabled", "user_deleted", "admin"},
		"goversion": nil, // whatever Go says
	}
	for _, code := range auth.Codes() {
		values["code"] = append(values["code"], string(code))
		values["status"] = append(values["status"], strconv.Itoa(code.Status()))
	}
	var api struct{ Paths map[string]any }
	check(t, json.Unmarshal([]byte(testauthd.Document(t, "openapi.json", nil)), &api))
	for path := range api.Paths {
		values["route"] = append(values["route"], regexp.MustCompile(`\{(\w+)\}`).ReplaceAllString(path, ":$1"))
	}
	var bus struct {
		Channels map[string]struct{ Address string }
	}
	check(t, json.Unmarshal([]byte(testauthd.Document(t, "asyncapi.json", nil)), &bus))
	for _, channel := range bus.Channels {
		if strings.HasPrefix(channel.Address, "auth.") {
			values["subject"] = append(values["subject"], channel.Address)
		} else {
			values["type"] = append(values["type"], channel.Address)
		}
	}
	return values
}

func tellOfNobody(t *testing.T, text string, e exposition, values map[string][]string) {
	if at := strings.Index(text, "example.com"); at >= 0 {
		t.Errorf("there is an address: %s", text[max(0, at-100):at+20])
	}
	for name, family := range e {
		if !strings.HasPrefix(name, "authd_") {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(values[l.GetName()], l.GetValue()) && values[l.GetName()] != nil {
					t.Errorf("%s has %s=%q, which is no value of it", name, l.GetName(), l.GetValue())
				}
			}
		}
	}
}

// areDescribed wants the table of docs/operations/metrics.md to have each metric as it is.
func areDescribed(t *testing.T, e exposition) {
	row := regexp.MustCompile("(?m)^\\| `(authd_\\w+)` \\| (\\w+) \\| (.*?) \\| (.*) \\|$")
	described := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(testauthd.Document(t, "operations/metrics.md", nil), -1) {
		described[m[1]] = m[0]
	}
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if !strings.HasPrefix(name, "authd_") {
			continue
		}
		want := fmt.Sprintf("| `%s` | %s | %s | %s |", name, strings.ToLower(e[name].GetType().String()),
			cmp.Or(quoted(e.labelsOf(name)), "–"), e[name].GetHelp())
		if described[name] != want {
			t.Errorf("docs/operations/metrics.md has\n%s\nand it should be\n%s", described[name], want)
		}
		delete(described, name)
	}
	for name := range described {
		t.Errorf("docs/operations/metrics.md has %s, which is not there", name)
	}
}

func quoted(names []string) string {
	for i, name := range names {
		names[i] = "`" + name + "`"
	}
	return strings.Join(names, " ")
}

// alarm is a rule of alerts.yml.
type alarm struct {
	Alert, Expr string
	Annotations map[string]string
}

func alarms(t *testing.T) (list []alarm) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alarm }
	}
	check(t, yaml.Unmarshal([]byte(testauthd.Document(t, "operations/prometheus/alerts.yml", nil)), &file))
	for _, group := range file.Groups {
		list = append(list, group.Rules...)
	}
	return list
}

// alarmTests is alerts_test.yml.
type alarmTests struct {
	Tests []struct {
		InputSeries []struct{ Series string } `yaml:"input_series"`
		Cases       []struct {
			Samples []struct{ Labels string } `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
	}
}

func readAlarmTests(t *testing.T) (tests alarmTests) {
	t.Helper()
	check(t, yaml.Unmarshal([]byte(testauthd.Document(t, "operations/prometheus/alerts_test.yml", nil)), &tests))
	return tests
}

func alarmSeries(t *testing.T) (list []string) {
	t.Helper()
	for _, test := range readAlarmTests(t).Tests {
		for _, input := range test.InputSeries {
			list = append(list, input.Series)
		}
	}
	return list
}

// dashboard returns the expressions of Grafana's panels, by their titles.
func dashboard(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	check(t, json.Unmarshal([]byte(testauthd.Document(t, "operations/grafana/authd.json", nil)), &file))
	variables := strings.NewReplacer("$job", "authd", "$instance", ".*", "$__rate_interval", "1m")
	expressions := map[string]string{}
	for _, panel := range file.Panels {
		for _, target := range panel.Targets {
			expressions[panel.Title+" "+target.RefID] = variables.Replace(target.Expr)
		}
	}
	return expressions
}

// asksForWhatThereIs wants an expression to be PromQL, and each metric and label in it to exist.
func asksForWhatThereIs(t *testing.T, e exposition, values map[string][]string, where, text string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			for _, fault := range e.faults(node, values) {
				t.Errorf("%s: %s", where, fault)
			}
		case *parser.AggregateExpr:
			for _, selector := range selectors(node) {
				for _, label := range node.Grouping {
					if !e.hasLabel(selector.Name, label) {
						t.Errorf("%s: %s has no label %s to group by", where, selector.Name, label)
					}
				}
			}
		}
		return nil
	})
}

func selectors(node parser.Node) (list []*parser.VectorSelector) {
	parser.Inspect(node, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			list = append(list, selector)
		}
		return nil
	})
	return list
}

// given are the labels that Prometheus itself gives to each series, and up, which it makes.
var given = []string{"job", "instance"}

// family finds a metric, for the series of a histogram too.
func (e exposition) family(name string) (found string, ok bool) {
	if name == "up" {
		return name, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if whole, cut := strings.CutSuffix(name, suffix); cut && e[whole].GetType() == dto.MetricType_HISTOGRAM && e[whole] != nil {
			return whole, true
		}
	}
	return name, e[name] != nil && e[name].GetType() != dto.MetricType_HISTOGRAM
}

func (e exposition) hasLabel(name, label string) bool {
	family, _ := e.family(name)
	return slices.Contains(given, label) || slices.Contains(e.labelsOf(family), label) || label == "le" && family != name
}

// faults are what a selector asks for that is not there.
func (e exposition) faults(selector *parser.VectorSelector, values map[string][]string) (faults []string) {
	if _, ok := e.family(selector.Name); !ok {
		return []string{selector.Name + " is no metric"}
	}
	for _, m := range selector.LabelMatchers {
		switch {
		case m.Name == model.MetricNameLabel || slices.Contains(given, m.Name):
		case !e.hasLabel(selector.Name, m.Name):
			faults = append(faults, fmt.Sprintf("%s has no label %s", selector.Name, m.Name))
		case m.Name != "le" && !isAnyOf(m.Value, values[m.Name]):
			faults = append(faults, fmt.Sprintf("%s: %s has no value like %s", selector.Name, m.Name, m.Value))
		}
	}
	return faults
}

// isAnyOf tells whether each alternative of a pattern matches a value.
func isAnyOf(pattern string, values []string) bool {
	for one := range strings.SplitSeq(pattern, "|") {
		if !slices.ContainsFunc(values, regexp.MustCompile("^(?:"+one+")$").MatchString) {
			return false
		}
	}
	return true
}

// The rules are tried by Prometheus itself.
func TestAlarmsAreRaisedAndNotTooSoon(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "..", "docs", "operations", "prometheus")
	promtool := testtool.Find(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	raised := map[string]bool{}
	for _, test := range readAlarmTests(t).Tests {
		for _, c := range test.Cases {
			for _, sample := range c.Samples {
				raised[sample.Labels] = true
			}
		}
	}
	for _, r := range alarms(t) {
		if !raised[fmt.Sprintf("{alertname=%q}", r.Alert)] {
			t.Errorf("no test raises %s", r.Alert)
		}
		if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/operations/runbook.md#"+strings.ToLower(r.Alert)) ||
			r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say what to do", r.Alert)
		}
	}
}
