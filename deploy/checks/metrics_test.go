package checks

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	metricName = regexp.MustCompile(`affidavit_[a-z]+_[a-z_]+`)
	metricType = regexp.MustCompile(`(?m)^# TYPE (affidavit_\S+) (\S+)$`)
	metricRow  = regexp.MustCompile("(?m)^\\| `(affidavit_[a-z_]+)` \\|([^|\n]*)\\|")
	sample     = regexp.MustCompile(`(?m)^(affidavit_[a-z_]+)\{([^}]*)\} `)
	label      = regexp.MustCompile(`([a-z]+)="`)
)

// documented returns the metrics of docs/metrics.md, each with its labels.
func documented(t *testing.T) map[string]string {
	b, err := os.ReadFile(filepath.Join(repo, "docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, m := range metricRow.FindAllStringSubmatch(string(b), -1) {
		all[m[1]] = m[2]
	}
	if len(all) < 40 {
		t.Fatalf("%d metrics are documented", len(all))
	}
	return all
}

// base is a histogram's name without what its samples add.
func base(name string) string {
	for _, s := range []string{"_bucket", "_count", "_sum"} {
		if b, ok := strings.CutSuffix(name, s); ok && strings.HasSuffix(b, "_seconds") {
			return b
		}
	}
	return name
}

// What alerts, dashboard and other pages name is documented. Fails if a metric is renamed in one place only.
func TestMetricsNamed(t *testing.T) {
	docs := documented(t)
	for _, name := range []string{"deploy/observability/alerts.yaml", "deploy/observability/dashboard.json", "log/README.md", "witness/README.md", "client/monitor/README.md"} {
		b, err := os.ReadFile(filepath.Join(repo, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metricName.FindAllString(string(b), -1) {
			if _, ok := docs[base(m)]; !ok {
				t.Errorf("%s: %s is not in docs/metrics.md", name, m)
			}
		}
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Targets []struct{ Expr string }
		}
	}
	b, err := os.ReadFile(filepath.Join(repo, "deploy/observability/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &dashboard); err != nil || len(dashboard.Panels) < 10 {
		t.Fatalf("%v, %d panels", err, len(dashboard.Panels))
	}
	// Grafana's own variable is the only thing in them that Prometheus can't read.
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for _, p := range dashboard.Panels {
		for i, x := range p.Targets {
			fmt.Fprintf(&rules, "  - {record: 'panel:%d:%d', expr: '%s'}\n", p.ID, i, strings.ReplaceAll(x.Expr, "$__rate_interval", "5m"))
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool: Debian's package prometheus has it")
	}
	queries := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(queries, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", queries}, {"check", "config", "prometheus.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Join(repo, "deploy/observability")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// Each alert has a case in which it fires and one in which it doesn't, and names a page that is there.
func TestAlertsTried(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join(repo, "deploy/observability/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(repo, "deploy/observability/alerts_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`- alert: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		if n := strings.Count(string(tests), "alertname: "+m[1]+"\n"); n != 2 {
			t.Errorf("%s has %d cases", m[1], n)
		}
	}
	for _, m := range regexp.MustCompile(`runbook: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		if _, err := os.Stat(filepath.Join(repo, m[1])); err != nil {
			t.Error(err)
		}
	}
}

// What the daemons serve is what is documented: no more, no less, with no other labels.
func TestMetricsServed(t *testing.T) {
	m := newMachine(t, "127.0.0.1:9001 127.0.0.1:9002 127.0.0.1:9101 127.0.0.1:8082 127.0.0.1:8083 127.0.0.1:4317")
	out, err := m.run(t, m.subst(`
ED=$(affidavit keygen --type log --name log.example.org/2026 --out /etc/affidavit/log.key)
A=$(affidavit keygen --type witness --name monitor.example/appraiser --out /etc/affidavit/appraiser.key)
W=$(affidavit keygen --type witness --name w.example --out /etc/affidavit/w.key)
printf 'logs/v0\n\nvkey %s\nqpd 86400\ncontact x\n' "$ED" >/etc/affidavit/logs.txt
printf 'log %s\nwitness w %s http://127.0.0.1:8082/\nwitness a %s http://127.0.0.1:9101/\nquorum w\n' "$ED" "$W" "$A" >/etc/affidavit/log.policy
R=$(affidavit keygen --type release --name v --out /etc/affidavit/r.key)
printf 'vendors:\n  - id: https://vendor.example\n    token-sha256: %s\n    release-keys: [%s]\n' "$(printf token-of-the-vendor-0123 | sha256sum | cut -c1-64)" "$R" >/etc/affidavit/vendors.yaml
printf token-of-the-vendor-0123 >/etc/affidavit/token && chmod 600 /etc/affidavit/token
affidavit-witness --name w.example --key /etc/affidavit/w.key --state w.db --init --log-list /etc/affidavit/logs.txt --listen 127.0.0.1:8082 --metrics-listen 127.0.0.1:8083 2>journal/w & echo $! >pids/w
until_ready http://127.0.0.1:8083/ready
affidavit-log --init --origin log.example.org/2026 --key /etc/affidavit/log.key --storage posix:log --log-policy /etc/affidavit/log.policy --appraiser a \
  --vendors /etc/affidavit/vendors.yaml --listen 127.0.0.1:8080 --metrics-listen 127.0.0.1:8081 --checkpoint-interval 100ms 2>journal/log & echo $! >pids/log
affidavit-monitor --log http://127.0.0.1:8080 --log-policy /etc/affidavit/log.policy --dir monitor --witness w=http://127.0.0.1:8082 --findings findings.jsonl --interval 200ms \
  --mirror mirror --appraiser-key /etc/affidavit/appraiser.key --appraiser-init --public-listen 127.0.0.1:9101 --metrics-listen 127.0.0.1:8475 2>journal/monitor & echo $! >pids/monitor
sed -f subst.sed deploy/systemd/examples/recorder.yaml | sed -e "s#^log: .*#log: http://127.0.0.1:8080#" -e "s/^quotes: auto/quotes: sim:x:$(date +%s)/" -e "s/^tenants: {}/tenants: {\"$(date -u +%Y-%m)\": \"$(printf %064d 1)\"}/" -e "s#/run/credentials/affidavit-recorder.service/token#/etc/affidavit/token#" \
  -e "s/^users: .*/users: [$(id -u)]/" -e 's/^dir: .*/&\nany-file-system: true/' >recorder.yaml
printf 'inference:\n  listen: 127.0.0.1:9001\n  upstream: http://127.0.0.1:9002\n  provider: example\n  channel: {sha256: "%064d"}\n  weights: "%064d"\n' 1 2 >>recorder.yaml
mkdir -p run/affidavit run/affidavit-recorder var/lib/affidavit-recorder && chmod 700 run/affidavit-recorder
affidavit-recorder --config recorder.yaml 2>journal/recorder & echo $! >pids/recorder
until_ready http://127.0.0.1:8081/ready; until_ready http://127.0.0.1:8475/ready; until_ready http://127.0.0.1:8477/ready
touch /etc/affidavit/vendors.yaml
affidavit sign --vendor-key --vendor https://vendor.example --key /etc/affidavit/r.key --out e.entry
affidavit submit --log http://127.0.0.1:8080 --token-file /etc/affidavit/token --log-policy /etc/affidavit/log.policy e.entry >/dev/null
echo "# a change" >>/etc/affidavit/vendors.yaml
for i in $(seq 100); do curl -fs http://127.0.0.1:8475/metrics >m; curl -fs http://127.0.0.1:8081/metrics >l; grep -q 'mirror_size [1-9]' m && grep -q 'appraiser_size.* [1-9]' l && grep -q appraised_checkpoints_total{ l && grep -q vendors_reloads_total{ l && break; sleep 0.1; done
cat m l; curl -fs http://127.0.0.1:8083/metrics; curl -fs http://127.0.0.1:8477/metrics
`))
	if err != nil {
		j, _ := exec.Command("sh", "-c", "tail -n 5 "+m.root+"/journal/*").Output()
		t.Fatalf("%v\n%s\n%.3000s", err, out, j)
	}
	docs := documented(t)
	served := make(map[string]bool)
	for _, m := range metricType.FindAllStringSubmatch(out, -1) {
		served[m[1]] = true
		if _, ok := docs[m[1]]; !ok {
			t.Errorf("%s is served, and not documented", m[1])
		}
		if strings.HasSuffix(m[1], "_total") != (m[2] == "counter") {
			t.Errorf("%s is a %s", m[1], m[2])
		}
	}
	// A counter with labels is there once it has counted.
	rare := []string{"affidavit_log_storage_errors_total"}
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		if !served[name] && !slices.Contains(rare, name) {
			t.Errorf("%s is documented, and not served", name)
		}
	}
	for _, m := range sample.FindAllStringSubmatch(out, -1) {
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" && !strings.Contains(docs[base(m[1])], "`"+l[1]+"`") {
				t.Errorf("%s has the label %s, which is not documented", m[1], l[1])
			}
		}
	}
}
