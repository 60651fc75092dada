package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/printable"
)

// A summary says how many findings there are, by what they mean for the exit status.
type summary struct {
	grave, other, info int
	halted             bool // the log contradicts what was audited, and still does
}

// status is the exit status.
func (s summary) status() int {
	switch {
	case s.grave > 0 || s.halted:
		return exitNotGenuine
	case s.other > 0:
		return exitFindings
	}
	return exitGood
}

// summarise counts the findings after a sequence number.
func (d *daemon) summarise(after uint64) (s summary, err error) {
	s.halted = d.monitor.Status().Halted != ""
	err = d.each(after, func(f *monitor.Finding) error {
		switch {
		case f.Class == monitor.ClassTamper || f.Class == monitor.ClassInvalid:
			s.grave++
		case f.Severity != monitor.SeverityInfo:
			s.other++
		default:
			s.info++
		}
		return nil
	})
	return s, err
}

// each calls do for the findings after a sequence number.
func (d *daemon) each(after uint64, do func(*monitor.Finding) error) error {
	for {
		page, err := d.monitor.Findings(after, 100)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, f := range page {
			if err := do(f); err != nil {
				return err
			}
			after = f.Seq
		}
	}
}

// print tells people what a run has found: the findings after a sequence number, and what is known in all.
func (d *daemon) print(w io.Writer, after uint64, s summary) error {
	err := d.each(after, func(f *monitor.Finding) error {
		where := ""
		if f.Index != nil {
			where = fmt.Sprintf(" at index %d", *f.Index)
		}
		_, err := fmt.Fprintf(w, "%s %s %s%s: %s\n", f.Severity, f.Class, f.Kind, where, printable.Line(f.Message))
		return err
	})
	if err != nil {
		return err
	}
	st := d.monitor.Status()
	verdict := "no findings"
	if s.grave+s.other+s.info > 0 {
		verdict = fmt.Sprintf("findings: %d of class tamper or invalid, %d others, %d of severity info", s.grave, s.other, s.info)
	}
	_, err = fmt.Fprintf(w, "%s: audited %d of %d leaves; %s\n", printable.Line(st.Log), st.Verified, st.Published, verdict)
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// showProgress tells a person at a terminal how far an audit is, until the returned function is called.
func showProgress(m *monitor.Monitor, w io.Writer) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-t.C:
				fmt.Fprintf(w, "\r\x1b[K%s", progressLine(m.Status()))
			}
		}
	}()
	return func() { close(done); <-ended }
}

// progressEvery is how often a long catch-up says how far it is to who reads the log, and progressLeast how long the rest
// must take for that.
const (
	progressEvery = time.Minute
	progressLeast = 10 * time.Second
)

// logProgress logs how far a long catch-up is, until ctx is done.
func logProgress(ctx context.Context, status func() monitor.Status, logger *slog.Logger) {
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		st := status()
		if left := time.Duration(st.Remaining * float64(time.Second)); left >= progressLeast {
			logger.Info("catching up", "audited", st.Audited, "published", st.Published, "leaves a second", int(st.Rate), "left", left.Round(time.Second).String(), "findings", st.Findings)
		}
	}
}

func progressLine(st monitor.Status) string {
	if st.Published == 0 {
		return "waiting for the log"
	}
	line := fmt.Sprintf("audited %d of %d leaves", st.Audited, st.Published)
	if st.Rate > 0 {
		left := time.Duration(st.Remaining * float64(time.Second))
		line += fmt.Sprintf(", %.0f a second, about %v left", st.Rate, left.Round(time.Second))
	}
	if st.Findings > 0 {
		line += fmt.Sprintf(", %d findings", st.Findings)
	}
	return line
}
