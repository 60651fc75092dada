package main

import (
	"errors"
	"time"

	"github.com/spf13/pflag"

	sessionlog "github.com/affidavit-log/affidavit/log"
)

// evidenceOptions are the flags of the evidence store.
type evidenceOptions struct {
	dir        string
	keep       time.Duration
	limit, max int64
}

func (o *evidenceOptions) flags(s *pflag.FlagSet) {
	s.StringVar(&o.dir, "evidence-dir", "", "`DIR` where evidence is kept that entries name by digest, such as event logs; none is kept by default")
	s.DurationVar(&o.keep, "evidence-keep", 0, "how long evidence is kept after the entry that names it; 0 is for good")
	s.Int64Var(&o.limit, "evidence-limit", 10<<30, "`BYTES` that all evidence may take")
	s.Int64Var(&o.max, "evidence-max-size", 4<<20, "`BYTES` that one item may have")
}

// open opens the store, nil if there is to be none.
func (o *evidenceOptions) open() (*sessionlog.EvidenceStore, error) {
	if o.keep < 0 || o.limit < 1 || o.max < 1 {
		return nil, errors.New("--evidence-keep, --evidence-limit and --evidence-max-size: want no negative duration, and sizes above 0")
	}
	if o.dir == "" {
		return nil, nil
	}
	return sessionlog.OpenEvidence(o.dir, sessionlog.EvidenceOptions{MaxSize: o.max, MaxTotal: o.limit, Keep: o.keep})
}
