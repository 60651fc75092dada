package export

import (
	"strconv"
	"strings"
)

// Syslog wraps events into messages of RFC 5424.
type Syslog struct {
	// Hostname is that of the machine that sends, or empty. See [SyslogName].
	Hostname string
}

// facilityAudit is "log audit" (RFC 5424, 6.2.1, table 1).
const facilityAudit = 13

// syslogSeverity translates OCSF's severities (RFC 5424, 6.2.1, table 2): an
// informational event is "Informational", a critical one "Critical". "Emergency" and
// "Alert" are for the machine that they come from.
func syslogSeverity(ocsf int) int {
	switch ocsf {
	case severityCritical:
		return 2 // Critical
	case severityHigh:
		return 3 // Error
	case severityMedium:
		return 4 // Warning
	case severityLow:
		return 5 // Notice
	}
	return 6 // Informational
}

// Append appends an event as one message without framing. The message is printable
// ASCII, and so needs no byte order mark (section 6.4, MSG-ANY), and has no line
// break, so that both framings of RFC 6587 can carry it.
func (s Syslog) Append(b []byte, ev *Event) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(facilityAudit*8+syslogSeverity(ev.Severity)), 10)
	b = append(b, ">1 "...)
	if t := ev.Time.UTC(); t.IsZero() || t.Year() > 9999 {
		b = append(b, '-')
	} else {
		b = t.AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	}
	b = append(b, ' ')
	b = append(b, SyslogName(s.Hostname)...)
	b = append(b, " affidavit - ocsf-"...)
	b = strconv.AppendInt(b, int64(ev.Class), 10)
	b = append(b, ` [origin software="affidavit" swVersion="`...)
	b = append(b, clip(SyslogName(Version()), 32)...) // section 7.2.4
	b = append(b, `"] `...)
	return append(b, ev.JSON...)
}

// AppendFrame appends a message with octet counting (RFC 6587, 3.4.1; RFC 5425, 4.3).
func AppendFrame(b, message []byte) []byte {
	b = strconv.AppendInt(b, int64(len(message)), 10)
	b = append(b, ' ')
	return append(b, message...)
}

// SyslogName returns s as a HOSTNAME: at most 255 characters of PRINTUSASCII
// (RFC 5424, 6), of which we also leave out what needs escaping in a PARAM-VALUE.
// What nothing is left of is "-", NILVALUE.
func SyslogName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' || r == ']' {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), 255)]
}
