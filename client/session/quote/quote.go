// Package quote gets TDX quotes for code that runs in a trust domain (TD): from the kernel, through configfs-tsm or
// /dev/tdx_guest, from the guest agent of dstack, or, only when asked for by name, from package tdxsim's made-up
// hardware.
//
// A quote is not verified here. What every [Source] of this package checks is that the answer is a TDX quote, whole and
// without padding, and that it commits to the REPORTDATA that was asked for: an agent or kernel that hashes, cuts or
// prefixes it would otherwise be noticed only when the log refuses the record.
package quote

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A Source issues quotes of the TD that it runs in. Sources can be used concurrently.
type Source interface {
	// Quote returns a raw TDX quote, without padding, whose REPORTDATA is reportData. The result is the caller's.
	//
	// A quote takes from a few milliseconds to seconds: the host's quoting enclave signs it. A source that has to
	// wait in the kernel heeds ctx only before and after that.
	Quote(ctx context.Context, reportData [64]byte) ([]byte, error)
}

// check returns the quote in raw, a source's answer, if it is one for reportData.
func check(raw []byte, reportData [64]byte) ([]byte, error) {
	if len(raw) == 0 {
		return nil, errors.New("the answer is empty")
	}
	q, err := tdx.ParseQuote(tdx.TrimPadding(raw))
	if err != nil {
		return nil, fmt.Errorf("the answer, of %d bytes, is not a TDX quote: %v", len(raw), err)
	}
	if [64]byte(q.Body.ReportData) != reportData {
		return nil, fmt.Errorf("the quote commits to REPORTDATA %x, not to %x as asked", q.Body.ReportData, reportData)
	}
	return q.Raw(), nil
}

// candidate is one place where Detect looks.
type candidate struct {
	name string
	open func() (Source, error) // says what is missing, without asking for a quote
}

// Detect returns the first source that works, in this order: configfs-tsm, /dev/tdx_guest, dstack's sockets. To know,
// it asks each that seems to be there for a quote, which nobody gets to see: a device file can be there without the
// call for quotes, as in current kernels.
//
// Made-up hardware is never detected, and neither is dstack's simulator: use [Sim] or [Dstack] to ask for them.
//
// The error has one line for each source that says what is missing, for people.
func Detect(ctx context.Context) (Source, error) {
	return detect(ctx, []candidate{
		{"configfs-tsm", func() (Source, error) { return ConfigFS() }},
		{"TDX guest device", func() (Source, error) { return Device() }},
		{"dstack guest agent", func() (Source, error) { return Dstack("") }},
	})
}

// probe is what quotes are asked for to see whether a source works. Nothing else is hashed to it, so that such a quote
// vouches for nothing.
var probe = sha512.Sum512([]byte("affidavit/quote-probe/v1"))

func detect(ctx context.Context, candidates []candidate) (Source, error) {
	var all []error
	for _, c := range candidates {
		s, err := c.open()
		if err == nil {
			_, err = s.Quote(ctx, probe)
		}
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all = append(all, fmt.Errorf("%s: %w", c.name, err))
	}
	return nil, fmt.Errorf("no source of TDX quotes:\n%w", errors.Join(all...))
}
