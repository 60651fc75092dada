package checks

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// systemd accepts the units, which leave little open. Fails if a directive is misspelt, a unit runs as root, or a
// restriction is taken out.
func TestUnits(t *testing.T) {
	dir := bin(t)
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze: Debian's package systemd has it")
	}
	units, err := filepath.Glob(filepath.Join(repo, "deploy/systemd/*.service"))
	if err != nil || len(units) != 4 {
		t.Fatalf("%d units, %v", len(units), err)
	}
	tmp := t.TempDir()
	for _, u := range units {
		b, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		// Commands are where the tests have them.
		text := strings.ReplaceAll(string(b), "/usr/bin/affidavit", dir+"/affidavit")
		copied := filepath.Join(tmp, filepath.Base(u))
		if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", filepath.Base(u), err, out)
		}
		// In tenths: the recorder needs a device and configfs, the others nothing.
		limit := "13"
		if strings.Contains(u, "recorder") {
			limit = "19"
		}
		if out, err := exec.Command(analyze, "security", "--offline=true", "--threshold="+limit, copied).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(u), err, out)
		}
	}
}

// The units start with the examples as they are, once there are keys and, for the log and the witness, what "--init" has
// made. The runbooks start the log and the witness; here are the other two.
func TestUnitsStart(t *testing.T) {
	m := newMachine(t, "127.0.0.1:8080 127.0.0.1:4317")
	out, err := m.run(t, m.subst(`
ED=$(affidavit keygen --type log --name log.example.org/2026 --out /etc/affidavit/log.key)
printf 'log %s\nquorum none\n' "$ED" >/etc/affidavit/log.policy
cp deploy/systemd/examples/* /etc/affidavit/
sed -i 's/\(FLAGS=.*\)\\$/\1 --allow-quorum-none \\/' /etc/affidavit/monitor.env
systemctl start affidavit-monitor
systemctl is-active affidavit-monitor
curl -fsS http://127.0.0.1:8475/health
curl -fsS -o /dev/null http://127.0.0.1:8474/
# The recorder wants a TDX guest's quotes, a token, and the customer's tenant of this month: the rest of its example is
# taken as it is.
printf 'token-of-the-vendor-0123\n' >/etc/affidavit/token && chmod 600 /etc/affidavit/token
sed -i -e "s/^quotes: auto/quotes: sim:x:$(date +%s)/" -e "s/^tenants: {}/tenants: {\"$(date -u +%Y-%m)\": \"$(printf %064d 1)\"}/" \
  -e "s/^users: .*/users: [$(id -u)]/" -e 's/^dir: .*/&\nany-file-system: true/' -e "$(sed 's/#\\1/#\\1/' $ROOT/subst.sed | tr '\n' ';')" /etc/affidavit/recorder.yaml
systemctl start affidavit-recorder
systemctl is-active affidavit-recorder
curl -fsS http://127.0.0.1:8477/ready
systemctl stop affidavit-recorder affidavit-monitor
`))
	if err != nil || strings.Count(out, "active\n") != 2 || !strings.Contains(out, "ready\n") {
		j, _ := exec.Command("sh", "-c", "head -n 30 "+m.root+"/journal/*").Output()
		t.Errorf("%v\n%s\n%s", err, out, j)
	}
}

// Every directory that a unit writes to is one that it may. Fails if an example names another.
func TestUnitsDirectories(t *testing.T) {
	path := regexp.MustCompile(`/(?:var/lib|var/log|run)/affidavit[a-z-]*`)
	for _, name := range []string{"log", "witness", "monitor", "recorder"} {
		unit, err := os.ReadFile(filepath.Join(repo, "deploy/systemd/affidavit-"+name+".service"))
		if err != nil {
			t.Fatal(err)
		}
		examples, err := filepath.Glob(filepath.Join(repo, "deploy/systemd/examples", name+".*"))
		if err != nil || len(examples) != 1 {
			t.Fatalf("%s: %v, %v", name, examples, err)
		}
		b, err := os.ReadFile(examples[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range path.FindAllString(string(b)+string(unit), -1) {
			key := map[string]string{"/var/lib/": "StateDirectory", "/var/log/": "LogsDirectory", "/run/": "RuntimeDirectory"}[p[:strings.LastIndex(p, "/")+1]]
			if !strings.Contains(string(unit), key+"="+filepath.Base(p)+"\n") && !strings.Contains(string(unit), "ReadWritePaths="+p+"\n") {
				t.Errorf("%s writes to %s, which the unit doesn't have as %s", name, p, key)
			}
		}
	}
}
