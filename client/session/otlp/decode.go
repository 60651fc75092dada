// Package otlp turns what agents export with the OpenTelemetry protocol, spans of
// the GenAI conventions and log events of agents that have their own, into
// activity events, and serves the protocol over gRPC and HTTP.
//
// MAPPING.md says what becomes of each event. Input is hostile: its size, number
// of messages and depth are bounded before anything is allocated for it.
package otlp

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Bounds on one export request.
const (
	// MaxBody is the size in bytes of the largest request, compressed or not. An
	// exporter's default is 512 records a request.
	MaxBody = 16 << 20
	// maxMessages bounds the messages in a request, each of which takes 50 to 250 bytes of
	// memory but as few as two on the wire: 16 MiB of them would be gigabytes.
	maxMessages = 400_000
	// maxDepth bounds how deep attribute values nest.
	maxDepth = 32
)

// ErrMalformed is wrapped by errors about a request that isn't OTLP, or breaks a bound.
var ErrMalformed = errors.New("malformed OTLP request")

// A shape says which fields of a message are messages, and their shapes.
type shape map[protowire.Number]shape

var (
	keyValue = shape{}
	anyValue = shape{}

	tracesShape = shape{1: {1: {1: keyValue}, 2: {1: {3: keyValue}, 2: {9: keyValue, 11: {3: keyValue}, 13: {4: keyValue}, 15: {}}}}}
	logsShape   = shape{1: {1: {1: keyValue}, 2: {1: {3: keyValue}, 2: {5: anyValue, 6: keyValue}}}}
)

func init() {
	keyValue[2] = anyValue
	anyValue[5] = shape{1: anyValue} // ArrayValue
	anyValue[6] = shape{1: keyValue} // KeyValueList
}

// scan checks b's structure against s without allocating, and subtracts the number
// of messages in it from *left.
func scan(b []byte, s shape, depth int, left *int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: nested more than %d deep", ErrMalformed, maxDepth)
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %v", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		child, message := s[num]
		if !message || typ != protowire.BytesType {
			// A group, long out of use, may nest: no message of OTLP has one.
			if typ == protowire.StartGroupType || typ == protowire.EndGroupType {
				return fmt.Errorf("%w: field %d is a group", ErrMalformed, num)
			}
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return fmt.Errorf("%w: %v", ErrMalformed, protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return fmt.Errorf("%w: %v", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		if *left--; *left < 0 {
			return fmt.Errorf("%w: more than %d messages in a request", ErrMalformed, maxMessages)
		}
		if err := scan(v, child, depth+1, left); err != nil {
			return err
		}
	}
	return nil
}

func decodeProto(b []byte, s shape, m proto.Message) error {
	if len(b) > MaxBody {
		return fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(b), MaxBody)
	}
	left := maxMessages
	if err := scan(b, s, 0, &left); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return nil
}

// decodeJSON decodes OTLP/JSON but for trace and span ids, which it has in
// hexadecimal where protobuf's JSON mapping has base64: see fixID.
func decodeJSON(b []byte, m proto.Message) error {
	if len(b) > MaxBody {
		return fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(b), MaxBody)
	}
	messages := bytes.Count(b, []byte("{")) // also those in strings, of which there are few
	if messages > maxMessages {
		return fmt.Errorf("%w: more than %d messages in a request", ErrMalformed, maxMessages)
	}
	// An attribute value is three objects deep for each level of nesting.
	o := protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 3*maxDepth + 8}
	if err := o.Unmarshal(b, m); err != nil {
		// The library's message quotes the input, which may be content.
		return fmt.Errorf("%w: not OTLP/JSON, or nested too deep", ErrMalformed)
	}
	return nil
}

// fixID undoes what protojson does to an id in hexadecimal: it takes the digits for
// base64. Encoding again gives the digits back.
func fixID(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	id, err := hex.DecodeString(base64.StdEncoding.EncodeToString(b))
	if err != nil {
		return nil, fmt.Errorf("%w: trace or span id is not hexadecimal", ErrMalformed)
	}
	return id, nil
}

// DecodeTraces decodes an ExportTraceServiceRequest, which has the same encoding as
// TracesData.
func DecodeTraces(b []byte, json bool) (*tracepb.TracesData, error) {
	m := new(tracepb.TracesData)
	if !json {
		return m, decodeProto(b, tracesShape, m)
	}
	if err := decodeJSON(b, m); err != nil {
		return nil, err
	}
	for _, r := range m.GetResourceSpans() {
		for _, sc := range r.GetScopeSpans() {
			for _, s := range sc.GetSpans() {
				var err [3]error
				s.TraceId, err[0] = fixID(s.GetTraceId())
				s.SpanId, err[1] = fixID(s.GetSpanId())
				s.ParentSpanId, err[2] = fixID(s.GetParentSpanId())
				if err := errors.Join(err[:]...); err != nil {
					return nil, err
				}
			}
		}
	}
	return m, nil
}

// DecodeLogs decodes an ExportLogsServiceRequest, which has the same encoding as
// LogsData.
func DecodeLogs(b []byte, json bool) (*logspb.LogsData, error) {
	m := new(logspb.LogsData)
	if !json {
		return m, decodeProto(b, logsShape, m)
	}
	if err := decodeJSON(b, m); err != nil {
		return nil, err
	}
	for _, r := range m.GetResourceLogs() {
		for _, sc := range r.GetScopeLogs() {
			for _, l := range sc.GetLogRecords() {
				var err [2]error
				l.TraceId, err[0] = fixID(l.GetTraceId())
				l.SpanId, err[1] = fixID(l.GetSpanId())
				if err := errors.Join(err[:]...); err != nil {
					return nil, err
				}
			}
		}
	}
	return m, nil
}

// id copies an id of the right length that isn't zero; anything else is none.
func id(dst, src []byte) bool {
	if len(src) != len(dst) || bytes.Count(src, []byte{0}) == len(src) {
		return false
	}
	copy(dst, src)
	return true
}
