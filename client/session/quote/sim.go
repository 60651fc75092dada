package quote

import (
	"context"
	"fmt"

	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// sim is made-up hardware.
type sim struct {
	platform *tdxsim.Platform
	options  tdxsim.QuoteOptions
}

// Sim returns a source of quotes by a made-up platform, for tests and demonstrations. They vouch for nothing, and verify
// under the made-up root of the platform's [tdxsim.PKI] only. The options describe the TD; their ReportData is ignored.
// It is never detected: who wants it has to say so.
func Sim(p *tdxsim.Platform, o tdxsim.QuoteOptions) Source { return &sim{p, o} }

func (s *sim) String() string { return "made-up hardware (tdxsim)" }

func (s *sim) Quote(ctx context.Context, reportData [64]byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o := s.options
	o.ReportData = reportData
	q, err := s.platform.Quote(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	return check(q, reportData)
}
