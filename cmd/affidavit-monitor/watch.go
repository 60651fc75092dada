package main

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/log/record"
)

// parseWatch parses a watch list: lines of a kind and a name, with comments after # as in log policies.
func parseWatch(b []byte) (w monitor.Watch, err error) {
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		fields := strings.Fields(line)
		for i, f := range fields {
			if strings.HasPrefix(f, "#") {
				fields = fields[:i]
				break
			}
		}
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return monitor.Watch{}, fmt.Errorf("line %d: want a kind and a name", n)
		}
		name := fields[1]
		switch fields[0] {
		case "vendor":
			err = record.CheckVendorID(name)
			w.Vendors = append(w.Vendors, name)
		case "tenant":
			w.Tenants, err = addDigest(w.Tenants, name)
		case "release":
			w.Releases, err = addDigest(w.Releases, name)
		case "platform":
			if b, derr := hex.DecodeString(name); derr != nil || len(b) != 16 || hex.EncodeToString(b) != name {
				err = fmt.Errorf("%q is not a PPID of 32 lowercase hexadecimal digits", name)
			}
			w.Platforms = append(w.Platforms, name)
		case "session":
			// An id and the digest that the log has instead of it have different lengths.
			if id, derr := hex.DecodeString(name); derr == nil && len(id) == len(record.SessionID{}) {
				w.Sessions = append(w.Sessions, record.SessionID(id).Digest())
				break
			}
			w.Sessions, err = addDigest(w.Sessions, name)
		default:
			err = fmt.Errorf("%q is none of vendor, tenant, release, platform, session", fields[0])
		}
		if err != nil {
			return monitor.Watch{}, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return w, nil
}

func addDigest(list []record.Digest, s string) ([]record.Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(record.Digest{}) || hex.EncodeToString(b) != s {
		return list, fmt.Errorf("%q is not a SHA-256 of 64 lowercase hexadecimal digits", s)
	}
	return append(list, record.Digest(b)), nil
}
