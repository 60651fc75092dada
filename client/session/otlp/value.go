package otlp

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
)

// text is the string form of a scalar, and whether v is one. Agents differ in
// whether they report a number or true as what it is or as a string.
func text(v *commonpb.AnyValue) (string, bool) {
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return x.StringValue, true
	case *commonpb.AnyValue_IntValue:
		return strconv.FormatInt(x.IntValue, 10), true
	case *commonpb.AnyValue_BoolValue:
		return strconv.FormatBool(x.BoolValue), true
	case *commonpb.AnyValue_DoubleValue:
		return strconv.FormatFloat(x.DoubleValue, 'g', -1, 64), true
	}
	return "", false
}

func str(v *commonpb.AnyValue) string {
	s, _ := text(v)
	return s
}

// content is the bytes whose digest stands for a content attribute: a string's own
// bytes, so that whoever has the text can compute the digest again, or JSON with
// sorted members and no spaces for anything else. It is nil for no value.
func content(v *commonpb.AnyValue) []byte {
	switch x := v.GetValue().(type) {
	case nil:
		return nil
	case *commonpb.AnyValue_StringValue:
		return []byte(x.StringValue)
	case *commonpb.AnyValue_BytesValue:
		return x.BytesValue
	}
	return appendJSON(nil, v)
}

func appendJSON(b []byte, v *commonpb.AnyValue) []byte {
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return appendString(b, x.StringValue)
	case *commonpb.AnyValue_BoolValue:
		return strconv.AppendBool(b, x.BoolValue)
	case *commonpb.AnyValue_IntValue:
		return strconv.AppendInt(b, x.IntValue, 10)
	case *commonpb.AnyValue_DoubleValue:
		if math.IsNaN(x.DoubleValue) || math.IsInf(x.DoubleValue, 0) {
			return append(b, "null"...)
		}
		return strconv.AppendFloat(b, x.DoubleValue, 'g', -1, 64)
	case *commonpb.AnyValue_BytesValue:
		return appendString(b, base64.StdEncoding.EncodeToString(x.BytesValue))
	case *commonpb.AnyValue_ArrayValue:
		b = append(b, '[')
		for i, e := range x.ArrayValue.GetValues() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case *commonpb.AnyValue_KvlistValue:
		kvs := slices.Clone(x.KvlistValue.GetValues())
		slices.SortStableFunc(kvs, func(a, b *commonpb.KeyValue) int {
			switch {
			case a.GetKey() < b.GetKey():
				return -1
			case a.GetKey() > b.GetKey():
				return 1
			}
			return 0
		})
		b = append(b, '{')
		for i, kv := range kvs {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, kv.GetKey())
			b = append(b, ':')
			b = appendJSON(b, kv.GetValue())
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

func appendString(b []byte, s string) []byte {
	j, _ := json.Marshal(s) // a string always marshals
	return append(b, j...)
}

// stringList is v as a list of strings, and whether it is one.
func stringList(v *commonpb.AnyValue) ([]string, bool) {
	a, ok := v.GetValue().(*commonpb.AnyValue_ArrayValue)
	if !ok {
		return nil, false
	}
	vs := a.ArrayValue.GetValues()
	l := make([]string, 0, min(len(vs), 64))
	for i, e := range vs {
		s, ok := text(e)
		if !ok || i == 64 {
			break
		}
		l = append(l, s)
	}
	return l, true
}
