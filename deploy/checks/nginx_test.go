package checks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nginx with the example passes on what the log says, keeps tiles and nothing else, and refuses what is too large or wrong.
// Fails if a location keeps checkpoints, loses the compression or the prefix, or lets large bodies through.
func TestNginx(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip("no nginx: Debian's package nginx-light has it")
	}
	m := newMachine(t, "127.0.0.1:8443 127.0.0.1:9002")
	b, err := os.ReadFile(filepath.Join(repo, "deploy/nginx/affidavit.conf"))
	if err != nil {
		t.Fatal(err)
	}
	conf := strings.ReplaceAll(strings.ReplaceAll(string(b), "listen 443", "listen 127.0.0.1:8443"), "/var/cache/nginx", m.root+"/cache")
	m.write(t, "nginx.conf", m.subst("worker_processes 1; daemon off; pid "+m.root+"/nginx.pid; error_log "+m.root+"/journal/nginx info;\nevents {}\nhttp {\naccess_log off; client_body_temp_path "+
		m.root+"/b; proxy_temp_path "+m.root+"/proxy; fastcgi_temp_path "+m.root+"/f; uwsgi_temp_path "+m.root+"/u; scgi_temp_path "+m.root+"/s;\n"+conf+"}\n"))
	if os.Getuid() == 0 {
		// Workers run as nobody, and must get to the cache.
		for d := m.root; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := m.run(t, m.subst(`
ED=$(affidavit keygen --type log --name log.example.org/2026 --out /etc/affidavit/log.key)
printf 'log %s\nquorum none\n' "$ED" >/etc/affidavit/log.policy
R=$(affidavit keygen --type release --name v --out /etc/affidavit/r.key)
printf 'vendors:\n  - id: https://vendor.example\n    token-sha256: %s\n    release-keys: [%s]\n' "$(printf token-of-the-vendor-0123 | sha256sum | cut -c1-64)" "$R" >/etc/affidavit/vendors.yaml
printf token-of-the-vendor-0123 >/etc/affidavit/token && chmod 600 /etc/affidavit/token
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=log.example.org -addext subjectAltName=IP:127.0.0.1,DNS:log.example.org -keyout /etc/affidavit/tls.key -out /etc/affidavit/tls.pem 2>/dev/null
affidavit-log --init --origin log.example.org/2026 --key /etc/affidavit/log.key --storage posix:log --log-policy /etc/affidavit/log.policy --allow-quorum-none \
  --vendors /etc/affidavit/vendors.yaml --listen 127.0.0.1:8080 --metrics-listen 127.0.0.1:8081 --access-log 2>journal/log & echo $! >pids/log
mkdir -p cache; chmod 777 cache
nginx -p $ROOT -c $ROOT/nginx.conf -t 2>&1
nginx -p $ROOT -c $ROOT/nginx.conf & echo $! >pids/nginx
until_ready http://127.0.0.1:8081/ready
U=https://127.0.0.1:8443/2026
get() { curl -sS --cacert /etc/affidavit/tls.pem -o body -D - "$@" | tr -d '\r'; }
for i in $(seq 50); do get $U/checkpoint >/dev/null 2>&1 && break; sleep 0.1; done
affidavit sign --vendor-key --vendor https://vendor.example --key /etc/affidavit/r.key --out e.entry
SSL_CERT_FILE=/etc/affidavit/tls.pem affidavit submit --log $U --token-file /etc/affidavit/token --log-policy /etc/affidavit/log.policy e.entry >/dev/null && echo SUBMITTED
echo "CHECKPOINT"; get $U/checkpoint; grep -x log.example.org/2026 body
SIZE=$(sed -n 2p body)
echo "TILE-1"; get $U/tile/0/000.p/$SIZE
echo "TILE-2"; get $U/tile/0/000.p/$SIZE
echo "BUNDLE-PLAIN"; get $U/tile/entries/000.p/$SIZE; cp body plain
echo "BUNDLE-GZIP"; get -H 'Accept-Encoding: gzip' $U/tile/entries/000.p/$SIZE; gzip -dc body | cmp - plain && echo SAME
echo "BUNDLE-GZIP-2"; get -H 'Accept-Encoding: gzip' $U/tile/entries/000.p/$SIZE; gzip -dc body | cmp - plain && echo SAME
echo "MISSING"; get $U/tile/0/x999
echo "LARGE"; head -c 200000 /dev/zero | get -H 'Expect:' -X POST --data-binary @- $U/add
echo "STRANGER"; get -X POST -H 'X-Request-Id: forged-by-a-client' -d x $U/add
echo "GET-ADD"; get $U/add
echo "POST-TILE"; get -X POST -d x $U/checkpoint
echo "PRIVATE"; get https://127.0.0.1:8443/metrics
echo "ACCESS"; grep -c 'path=/tile/0/000.p' journal/log
echo "FLOOD"; for i in $(seq 3); do curl -s --cacert /etc/affidavit/tls.pem -o /dev/null -w '%{http_code}\n' --parallel --parallel-immediate --parallel-max 64 -X POST -d x "$U/add?[1-500]" >>codes; done; sort codes | uniq -c
`))
	if err != nil {
		j, _ := exec.Command("sh", "-c", "tail -n 5 "+m.root+"/journal/*").Output()
		t.Fatalf("%v\n%s\n%.3000s", err, out, j)
	}
	section := func(name string) string {
		_, s, _ := strings.Cut(out, name+"\n")
		s, _, _ = strings.Cut(s, "\n\n") // headers
		return s
	}
	for _, tt := range []struct{ section, want, never string }{
		{"CHECKPOINT", "no-cache", "X-Cache"},
		{"TILE-1", "immutable", "HIT"},
		{"TILE-2", "X-Cache: HIT", "MISS"},
		{"BUNDLE-PLAIN", "immutable", "Content-Encoding"},
		{"BUNDLE-GZIP", "Content-Encoding: gzip", "HIT"},
		{"BUNDLE-GZIP-2", "X-Cache: HIT", "MISS"},
		{"MISSING", " 404", "immutable"},
		{"LARGE", " 413", "problem"},
		{"STRANGER", " 401", "forged-by-a-client"},
		{"GET-ADD", " 403", "problem"},
		{"POST-TILE", " 403", "problem"},
		{"PRIVATE", " 404", "affidavit_"},
	} {
		s := section(tt.section)
		if !strings.Contains(strings.ToLower(s), strings.ToLower(tt.want)) || strings.Contains(s, tt.never) {
			t.Errorf("%s: want %q and never %q:\n%s", tt.section, tt.want, tt.never, s)
		}
	}
	if strings.Count(out, "SAME\n") != 2 || !strings.Contains(out, "SUBMITTED") {
		t.Errorf("a bundle differs when compressed, or nothing could be submitted:\n%s", out)
	}
	if !strings.Contains(out, "ACCESS\n1\n") {
		t.Errorf("the log was asked for a tile more than once:\n%s", out)
	}
	_, flood, _ := strings.Cut(out, "FLOOD\n")
	if !strings.Contains(flood, " 429") {
		t.Errorf("a flood isn't limited:\n%s", flood)
	}
}
