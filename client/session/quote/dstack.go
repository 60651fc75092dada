package quote

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// dstackSockets are where dstack's guest agent listens: since 0.5 (the first is where newer images bind it, the second
// where they keep it for containers), and before under its older name.
var dstackSockets = []string{"/var/run/dstack/dstack.sock", "/var/run/dstack.sock", "/var/run/tappd.sock"}

const (
	// dstackTimeout bounds one exchange with the agent, which waits for the host's quoting enclave.
	dstackTimeout = 60 * time.Second
	// maxDstackAnswer bounds an answer. Most of it is the event log, of which nothing is used.
	maxDstackAnswer = 16 << 20
)

// dstack talks to the guest agent of dstack (github.com/Dstack-TEE/dstack), JSON over HTTP on a unix socket.
type dstack struct {
	socket string
	path   string
	query  map[string]string // what is sent beside report_data
	client *http.Client
}

// Dstack returns the guest agent of dstack at the given unix socket, or at one of the agent's usual paths if socket is
// empty. A socket named tappd.sock is spoken to as versions before 0.5 want it.
//
// Everybody who can connect to the socket gets quotes over what they like: give it to the recorder only.
func Dstack(socket string) (Source, error) {
	if socket == "" {
		var err error
		if socket, err = findSocket(dstackSockets); err != nil {
			return nil, err
		}
	} else if err := checkSocket(socket); err != nil {
		return nil, err
	}
	d := &dstack{socket: socket, path: "/GetQuote"}
	if strings.HasPrefix(filepath.Base(socket), "tappd") {
		// "raw" keeps the agent from hashing a prefix and the data into REPORTDATA, which is its default.
		d.path, d.query = "/prpc/Tappd.TdxQuote", map[string]string{"hash_algorithm": "raw", "prefix": ""}
	}
	d.client = &http.Client{
		Timeout: dstackTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			// An agent that is restarted makes its socket anew: a kept connection would only fail.
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return d, nil
}

func findSocket(paths []string) (string, error) {
	var errs []error
	for _, p := range paths {
		err := checkSocket(p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	return "", fmt.Errorf("%w: none of the sockets %s is there: not in dstack, or the container's compose file doesn't mount one", ErrUnavailable, strings.Join(paths, ", "))
}

func checkSocket(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s is not a socket", ErrUnavailable, path)
	}
	return nil
}

func (d *dstack) String() string { return "dstack guest agent at " + d.socket }

func (d *dstack) Quote(ctx context.Context, reportData [64]byte) ([]byte, error) {
	raw, err := d.ask(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	q, err := check(raw, reportData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	return q, nil
}

func (d *dstack) ask(ctx context.Context, reportData [64]byte) ([]byte, error) {
	body := map[string]string{"report_data": hex.EncodeToString(reportData[:])}
	for k, v := range d.query {
		body[k] = v
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	// The host name is for the header only.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dstack"+d.path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := d.client.Do(req)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: %w: let the recorder's user connect to it", ErrUnavailable, err)
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxDstackAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > maxDstackAnswer {
		return nil, fmt.Errorf("answered more than %d bytes", maxDstackAnswer)
	}
	var parsed struct {
		Quote string `json:"quote"`
		Error string `json:"error"`
	}
	err = json.Unmarshal(answer, &parsed)
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("answered %d to POST %s: %.200q", resp.StatusCode, d.path, parsed.Error)
	case err != nil:
		return nil, fmt.Errorf("answer to POST %s: %v", d.path, err)
	case parsed.Error != "":
		return nil, fmt.Errorf("answer to POST %s: %.200q", d.path, parsed.Error)
	}
	quote, err := hex.DecodeString(strings.TrimPrefix(parsed.Quote, "0x"))
	if err != nil {
		return nil, fmt.Errorf("the quote in the answer is not hexadecimal: %v", err)
	}
	return quote, nil
}
