package export

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// shared returns a file of the shared schemas, or skips.
func shared(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("AFFIDAVIT_SHARED")
	if dir == "" {
		dir = "../../../shared"
	}
	file := filepath.Join(dir, "schemas", name)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("no %s: set AFFIDAVIT_SHARED", file)
	}
	return file
}

// TestSharedOCSF checks events of every kind, whole and shortened, against the OCSF
// metaschema.
func TestSharedOCSF(t *testing.T) {
	checker := shared(t, "check_ocsf.py")
	items := all(t)
	args := []string{checker}
	for _, name := range []string{"ocsf.ndjson", "short.ndjson"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, export(t, exporters()[name], items), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	if out, err := exec.Command("python3", args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSharedOSCAL checks documents of every sample, of one record and of none against
// NIST's schema.
func TestSharedOSCAL(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(shared(t, "oscal_assessment-results_schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	items := all(t)
	for _, part := range [][]*Item{items, items[:1], nil} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(oscalOf(t, part)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%d records: %v", len(part), err)
		}
		// The schema does refuse: else nothing was shown.
		doc.(map[string]any)["assessment-results"].(map[string]any)["uuid"] = "none"
		if schema.Validate(doc) == nil {
			t.Error("the schema accepts a UUID that is none")
		}
	}
}
