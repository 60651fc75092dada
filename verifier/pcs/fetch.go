package pcs

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

const (
	// IntelURL is Intel's PCS.
	IntelURL = "https://api.trustedservices.intel.com"

	// intelRootCRL is where Intel's certificates say that the root's
	// revocation list is.
	intelRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

	// maxBody bounds a response's body in bytes. The largest, the Processor
	// CA's revocation list, has some hundred kilobytes.
	maxBody = 8 << 20

	// maxHeader bounds the headers of a response, and maxChain the one that
	// holds a certificate chain, in bytes. Intel's have two certificates, and 3
	// KB.
	maxHeader = 64 << 10
	maxChain  = 32 << 10

	// attempts is how often a request is tried, and retryDelay how long to
	// wait before the second time; the wait doubles, and half of it is random.
	attempts   = 4
	retryDelay = 250 * time.Millisecond
	// maxRetryAfter bounds what a service can make us wait.
	maxRetryAfter = 10 * time.Second
)

// A statusError is an answer other than 200.
type statusError struct {
	url        string
	code       int
	retryAfter time.Duration
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: status %d", e.url, e.code) }

// A fetcher asks one service. It is immutable.
type fetcher struct {
	client  *http.Client
	base    string   // without a trailing slash
	rootCRL []string // where the root's revocation list may be, in the order to try
	timeout time.Duration
}

// newFetcher returns a fetcher for a service's URL, which may have the path of
// its API, as PCCS configurations do.
func newFetcher(rawURL string, client *http.Client, timeout time.Duration) (*fetcher, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("PCS URL: %v", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("PCS URL %q is not http(s)://HOST[/PATH]", rawURL)
	}
	base := strings.TrimSuffix(u.String(), "/")
	for _, api := range []string{"/sgx/certification/v4", "/tdx/certification/v4"} {
		base = strings.TrimSuffix(base, api)
	}
	f := &fetcher{client: client, base: base, timeout: timeout}
	if base == IntelURL {
		f.rootCRL = []string{intelRootCRL}
	} else {
		// A PCCS has it in its API. What looks like Intel's service has it
		// where Intel's certificates say.
		f.rootCRL = []string{base + "/sgx/certification/v4/rootcacrl", base + "/IntelSGXRootCA.der"}
	}
	return f, nil
}

// fetch gets a set, which isn't verified. TCB info comes first, so that a
// family that the service doesn't know costs it two cheap requests.
func (f *fetcher) fetch(ctx context.Context, k key) (*tdx.Collateral, error) {
	c := new(tdx.Collateral)
	tcb := f.base + "/tdx/certification/v4/tcb?fmspc=" + k.fmspc
	identity := f.base + "/tdx/certification/v4/qe/identity"

	var err error
	c.TCBInfo, c.TCBInfoChain, err = f.chained(ctx, tcb, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")
	if isStatus(err, http.StatusNotFound) {
		// A wrong URL is answered like an unknown family. If the service is
		// there, it knows the quoting enclave.
		if _, err2 := f.get(ctx, identity); err2 != nil {
			return nil, fmt.Errorf("%w: %v, and %v", ErrUnreachable, err, err2)
		}
		return nil, fmt.Errorf("%w for FMSPC %s: %v", ErrNoCollateral, k.fmspc, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	// A cache may have a final newline, which Intel's service doesn't, and
	// which would make another set of the same one. What is signed is within.
	c.TCBInfo = bytes.TrimSpace(c.TCBInfo)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		c.QEIdentity, c.QEIdentityChain, err = f.chained(ctx, identity, "SGX-Enclave-Identity-Issuer-Chain")
		c.QEIdentity = bytes.TrimSpace(c.QEIdentity)
		return err
	})
	g.Go(func() (err error) {
		u := f.base + "/sgx/certification/v4/pckcrl?ca=" + k.ca + "&encoding=der"
		if c.PCKCRL, c.PCKCRLChain, err = f.chained(ctx, u, "SGX-PCK-CRL-Issuer-Chain"); err == nil {
			c.PCKCRL, err = decodeCRL(c.PCKCRL)
		}
		return err
	})
	g.Go(func() (err error) {
		for _, u := range f.rootCRL {
			var r *response
			if r, err = f.get(ctx, u); err == nil {
				c.RootCRL, err = decodeCRL(r.body)
				return err
			}
			if !isStatus(err, http.StatusNotFound) {
				return err
			}
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return c, nil
}

func isStatus(err error, code int) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == code
}

// chained gets a body with the certificate chain that a header holds: the first
// of these names that there is.
func (f *fetcher) chained(ctx context.Context, u string, names ...string) (body, chain []byte, err error) {
	r, err := f.get(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		values := r.header.Values(name)
		if len(values) == 0 {
			continue
		}
		if len(values) > 1 {
			return nil, nil, fmt.Errorf("%s: %d headers %s", u, len(values), name)
		}
		if chain, err = decodeChain(values[0]); err != nil {
			return nil, nil, fmt.Errorf("%s: header %s: %v", u, name, err)
		}
		return r.body, chain, nil
	}
	return nil, nil, fmt.Errorf("%s: no header %s", u, names[0])
}

type response struct {
	header http.Header
	body   []byte
}

// get gets a URL, and tries again if that may help.
func (f *fetcher) get(ctx context.Context, u string) (*response, error) {
	delay := retryDelay
	for n := 1; ; n++ {
		r, err := f.getOnce(ctx, u)
		if err == nil {
			return r, nil
		}
		wait := delay/2 + rand.N(delay/2)
		var s *statusError
		if errors.As(err, &s) {
			if s.code != http.StatusTooManyRequests && s.code < 500 {
				return nil, err
			}
			wait = max(wait, min(s.retryAfter, maxRetryAfter))
		}
		if n == attempts || errors.Is(err, errTooLarge) {
			return nil, err
		}
		delay *= 2
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, after %v", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

var errTooLarge = fmt.Errorf("body larger than %d bytes", maxBody)

func (f *fetcher) getOnce(ctx context.Context, u string) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	res, err := f.client.Do(req)
	if err != nil {
		return nil, err // names method and URL
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		e := &statusError{url: u, code: res.StatusCode}
		if s, err := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16); err == nil {
			e.retryAfter = time.Duration(s) * time.Second
		}
		return nil, e
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s: body: %w", u, err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%s: %w", u, errTooLarge)
	}
	return &response{res.Header, body}, nil
}

// decodeChain decodes a certificate chain in a header. Intel's service escapes
// it as encodeURIComponent does, where '+' is %2B, and space %20. What was meant
// by a bare '+' depends on who wrote it: some proxies in front of a PCCS leave
// '+' as it is, and others write it for spaces. The PEM header tells.
//
// The result is PEM in Go's encoding, which is Intel's, of certificates only,
// at least one; they aren't parsed.
func decodeChain(s string) ([]byte, error) {
	if len(s) > maxChain {
		return nil, fmt.Errorf("%d bytes, more than %d", len(s), maxChain)
	}
	unescape := url.PathUnescape // leaves '+' as it is
	if strings.Contains(s, "BEGIN+CERTIFICATE") {
		unescape = url.QueryUnescape
	}
	text, err := unescape(s)
	if err != nil {
		return nil, err
	}
	var chain []byte
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, fmt.Errorf("PEM block of type %q", block.Type)
		}
		chain = append(chain, pem.EncodeToMemory(block)...)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
	}
	// pem.Decode skips what it doesn't understand.
	if !bytes.Equal(withoutSpace([]byte(text)), withoutSpace(chain)) {
		return nil, errors.New("not only PEM certificates")
	}
	return chain, nil
}

// withoutSpace returns b without ASCII white space.
func withoutSpace(b []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, b)
}

// decodeCRL returns the DER encoding of a revocation list that may be in
// hexadecimal, as a PCCS has it, or PEM. It isn't parsed.
func decodeCRL(b []byte) ([]byte, error) {
	der := b
	switch {
	case bytes.HasPrefix(b, []byte{0x30, 0x82}), bytes.HasPrefix(b, []byte{0x30, 0x81}):
	case bytes.HasPrefix(b, []byte("-----BEGIN X509 CRL-----")):
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("revocation list: malformed PEM")
		}
		der = block.Bytes
	default:
		var err error
		if der, err = hex.DecodeString(string(bytes.TrimSpace(b))); err != nil {
			return nil, fmt.Errorf("revocation list of %d bytes is neither DER nor PEM nor hexadecimal", len(b))
		}
	}
	if len(der) == 0 || der[0] != 0x30 {
		return nil, fmt.Errorf("revocation list of %d bytes is not a DER sequence", len(b))
	}
	return der, nil
}
