package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// Files of a set-up.
const (
	intelFile   = "intel.seed"   // secret of the made-up Intel, and since when it exists
	rootFile    = "root.pem"     // its root
	vendorsFile = "vendors.yaml" // for the log
)

// An environment is what setup made.
type environment struct {
	dir    string
	pki    *tdxsim.PKI
	ids    []string // of vendors
	tokens []string
}

func setup(_ context.Context, fs *pflag.FlagSet, args []string, stdout, _ io.Writer) error {
	dir := fs.String("dir", "", "`DIR` to make, with everything in it")
	n := fs.Int("vendors", 4, "`N` vendors among whom records are dealt out; each gets its share of a busy log")
	if err := parse(fs, args, "dir"); err != nil {
		return err
	}
	if *n < 1 || *n > 1000 {
		return usageError{fmt.Errorf("--vendors %d: want 1 to 1000", *n)}
	}
	if err := makeEnvironment(*dir, *n); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s has %s, %s, and the tokens of %d vendors\n", *dir, rootFile, vendorsFile, *n)
	return nil
}

func vendorID(i int) string { return "https://load.example/" + strconv.Itoa(i+1) }
func tokenFile(dir string, i int) string {
	return filepath.Join(dir, "vendor-"+strconv.Itoa(i+1)+".token")
}

func makeEnvironment(dir string, vendors int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err // also if it is there: the root of an earlier one may be a log's
	}
	seed := make([]byte, 32)
	rand.Read(seed)
	since := time.Now().Add(-time.Hour).Truncate(time.Second)
	pki := tdxsim.NewPKI(seed, since)
	var list bytes.Buffer
	list.WriteString("vendors:\n")
	for i := range vendors {
		token := rand.Text()
		if err := os.WriteFile(tokenFile(dir, i), []byte(token+"\n"), 0o600); err != nil {
			return err
		}
		pub, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n    quota: {rate: 1000000, burst: 1000000}\n",
			vendorID(i), sha256.Sum256([]byte(token)), base64.StdEncoding.EncodeToString(record.SPKI(pub)))
	}
	for name, b := range map[string][]byte{
		intelFile: fmt.Appendf(nil, "%x %d\n", seed, since.Unix()), rootFile: pki.RootPEM(), vendorsFile: list.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func openEnvironment(dir string) (*environment, error) {
	b, err := os.ReadFile(filepath.Join(dir, intelFile))
	if err != nil {
		return nil, fmt.Errorf("%w (\"affidavit load setup\" makes such a directory)", err)
	}
	hexSeed, unix, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	seed, err := hex.DecodeString(hexSeed)
	since, err2 := strconv.ParseInt(unix, 10, 64)
	if err := errors.Join(err, err2); err != nil || len(seed) != 32 {
		return nil, fmt.Errorf("%s is not what setup made: %q", filepath.Join(dir, intelFile), b)
	}
	e := &environment{dir: dir, pki: tdxsim.NewPKI(seed, time.Unix(since, 0))}
	for i := 0; ; i++ {
		token, err := os.ReadFile(tokenFile(dir, i))
		if errors.Is(err, os.ErrNotExist) && i > 0 {
			return e, nil
		}
		if err != nil {
			return nil, err
		}
		e.ids, e.tokens = append(e.ids, vendorID(i)), append(e.tokens, strings.TrimSpace(string(token)))
	}
}

// pcs returns the made-up Intel's service, with collateral of today.
func (e *environment) pcs() http.Handler {
	return e.pki.PCS(tdxsim.PCSOptions{Sets: []tdxsim.CollateralOptions{{IssueDate: time.Now().Add(-time.Hour).Truncate(time.Second)}}})
}

func intel(ctx context.Context, fs *pflag.FlagSet, args []string, stdout, _ io.Writer) error {
	dir := fs.String("dir", "", "`DIR` that setup made")
	listen := fs.String("listen", "", "`ADDR` such as 127.0.0.1:8090, for the log's --pcs-url")
	if err := parse(fs, args, "dir", "listen"); err != nil {
		return err
	}
	e, err := openEnvironment(*dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "serving on http://%s until interrupted\n", l.Addr())
	return serve(ctx, l, e.pcs())
}

// serve serves until ctx is done.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
