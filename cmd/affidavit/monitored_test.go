package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

// The members of what a monitor answers are documented one by one, also those that an example would leave out.
func TestManualMonitorJSON(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## Commands that ask a monitor\n")
	if !ok {
		t.Fatal("no section about monitors")
	}
	text, _, _ = strings.Cut(text, "\n## affidavit keygen\n")
	seen := make(map[reflect.Type]bool)
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || !strings.HasSuffix(typ.PkgPath(), "/monitorapi") {
			return
		}
		seen[typ] = true
		for f := range typ.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `{"`+name+`": …}`) {
				t.Errorf("%v: `%s` isn't documented", typ, name)
			}
			check(f.Type)
		}
	}
	for _, v := range []any{&monitorapi.RecallLine{}, &monitorapi.ReappraiseLine{}, &monitorapi.ReconcileLine{}, &monitorapi.VendorCheck{}} {
		check(reflect.TypeOf(v))
	}
	if len(seen) < 15 {
		t.Errorf("looked at %d types only", len(seen))
	}
	for _, change := range monitorapi.Changes {
		if !strings.Contains(text, "| `"+string(change)+"` |") {
			t.Errorf("change `%s` isn't documented", change)
		}
	}
}
