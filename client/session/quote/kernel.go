package quote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/go-tdx-guest/client"
)

const (
	configFSRoot   = "/sys/kernel/config"
	configFSReport = configFSRoot + "/tsm/report"
	guestDevice    = "/dev/tdx_guest"
)

// ErrUnavailable is wrapped by errors that say that a source isn't there, or may not be used by this process. It wraps
// [errors.ErrUnsupported], by which package session knows not to ask again.
var ErrUnavailable error = unavailable{}

type unavailable struct{}

func (unavailable) Error() string { return "not available" }
func (unavailable) Unwrap() error { return errors.ErrUnsupported }

// kernel is a source behind a blocking call into the kernel. Calls are made one at a time, as the kernel does itself:
// the host's quoting enclave is one queue.
type kernel struct {
	name string

	mu  sync.Mutex // held during get
	get func(reportData [64]byte) ([]byte, error)
}

func (k *kernel) String() string { return k.name }

func (k *kernel) Quote(ctx context.Context, reportData [64]byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := call(k.get, reportData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.name, err)
	}
	q, err := check(raw, reportData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.name, err)
	}
	return q, nil
}

// call calls get. go-tdx-guest v0.3.1 slices its buffer by a length that the host has written, so that a host could
// make the process panic; as an error, it costs the host's own quote only.
func call(get func([64]byte) ([]byte, error), reportData [64]byte) (raw []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			raw, err = nil, fmt.Errorf("the host's answer doesn't fit its buffer: %v", r)
		}
	}()
	return get(reportData)
}

// ConfigFS returns the kernel's interface for attestation reports, configfs-tsm (Linux 6.7 and later). The process must
// be able to make directories in /sys/kernel/config/tsm/report, which by default only root can.
func ConfigFS() (Source, error) {
	if err := reportDir(configFSRoot, configFSReport); err != nil {
		return nil, err
	}
	p, err := client.GetQuoteProvider()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return fromProvider(p), nil
}

// fromProvider returns a source that uses p, and nothing else: client.GetRawQuote would go on to the device when p
// fails, and hide why.
func fromProvider(p client.QuoteProvider) Source {
	return &kernel{name: "configfs-tsm", get: func(reportData [64]byte) ([]byte, error) {
		if err := p.IsSupported(); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrUnavailable, err)
		}
		raw, err := p.GetRawQuote(reportData)
		if err != nil && errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: %v: let the recorder's user make directories in it", ErrUnavailable, err)
		}
		return raw, err
	}}
}

// reportDir says what is missing for reports in configfs.
func reportDir(root, report string) error {
	if info, err := os.Stat(report); err == nil && info.IsDir() {
		return nil
	} else if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %v: let the recorder's user search it", ErrUnavailable, err)
	}
	tsm := filepath.Dir(report)
	switch entries, err := os.ReadDir(root); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s: a kernel without configfs, or a container that doesn't get to see it", ErrUnavailable, root)
	case err == nil && len(entries) == 0:
		return fmt.Errorf("%w: %s is empty: mount it (mount -t configfs none %s), or give it to the container", ErrUnavailable, root, root)
	}
	if _, err := os.Stat(tsm); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no %s: it takes Linux 6.7 with CONFIG_TSM_REPORTS and the module tdx_guest, in a trust domain", ErrUnavailable, tsm)
	}
	return fmt.Errorf("%w: there is no directory %s", ErrUnavailable, report)
}

// Device returns the device /dev/tdx_guest. Only kernels with a call for quotes in the device (those of some
// distributions and clouds, before configfs-tsm) answer; others say so at the first quote.
func Device() (Source, error) {
	if err := openDevice(guestDevice, os.O_RDWR); err != nil {
		return nil, err
	}
	return fromDevice(func() (client.Device, error) { return client.OpenDevice() }), nil
}

func fromDevice(open func() (client.Device, error)) Source {
	return &kernel{name: guestDevice, get: func(reportData [64]byte) ([]byte, error) {
		d, err := open()
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrUnavailable, err)
		}
		defer d.Close()
		return client.GetRawQuote(d, reportData)
	}}
}

// openDevice says why the device can't be used.
func openDevice(path string, mode int) error {
	f, err := os.OpenFile(path, mode, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s: not in a TDX trust domain, or the module tdx_guest isn't loaded, or the container doesn't get to see it", ErrUnavailable, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: no permission for %s: let the recorder's user, and nobody else, read and write it", ErrUnavailable, path)
	}
	return fmt.Errorf("%w: %v", ErrUnavailable, err)
}
