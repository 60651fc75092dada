// Command release builds what is published: the commands for the systems that have them, a bill of materials for each
// binary, and checksums. The same commit and toolchain give the same bytes, on any machine.
//
//	go run ./deploy/release --out dist [--check]
//
// With --check everything is built twice, the second time from a copy of the tree elsewhere and with an empty build
// cache, and compared.
package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A target is a system and the commands that are released for it.
type target struct {
	os, arch string
	commands []string
}

var (
	people  = []string{"affidavit"}
	daemons = []string{"affidavit", "affidavit-hook", "affidavit-log", "affidavit-witness", "affidavit-monitor", "affidavit-recorder"}
	targets = []target{
		{"linux", "amd64", daemons}, {"linux", "arm64", daemons},
		{"darwin", "amd64", people}, {"darwin", "arm64", people}, {"windows", "amd64", people},
	}
)

func main() {
	out := flag.String("out", "dist", "`DIR` for the release, made anew")
	check := flag.Bool("check", false, "build a second time, from a copy of the tree with an empty cache, and compare")
	only := flag.String("only", "", "`OS/ARCH` alone")
	command := flag.String("command", "", "`NAME` of the one command to build, for a quick check")
	flag.Parse()
	if err := run(*out, *only, *command, *check); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func run(out, only, command string, check bool) error {
	tree, err := output("", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "affidavit-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// From clones, so that what is released is what is committed.
	first, again := filepath.Join(tmp, "tree"), filepath.Join(tmp, "elsewhere", "tree-2")
	for _, dir := range []string{first, again} {
		if _, err := output("", "git", "clone", "-q", tree, dir); err != nil {
			return err
		}
	}
	if err := build(first, out, only, command, ""); err != nil || !check {
		return err
	}
	if err := build(again, filepath.Join(tmp, "dist"), only, command, filepath.Join(tmp, "cache")); err != nil {
		return err
	}
	a, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(tmp, "dist", "SHA256SUMS"))
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("the second build differs:\n%s\n%s", a, b)
	}
	fmt.Println("release: built twice, the same bytes")
	return nil
}

// build builds a tree into out, with a cache of its own if one is given.
func build(tree, out, only, command, cache string) error {
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	abs, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	commit, err := output(tree, "git", "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	when, err := output(tree, "git", "log", "-1", "--format=%cI")
	if err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339, when)
	if err != nil {
		return err
	}
	// Whatever the builder's settings are: no C library, and the baseline of each processor.
	env := append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	if cache != "" {
		env = append(env, "GOCACHE="+cache)
	}
	if command == "" || command == "affidavit" {
		// What affidavit embeds and git doesn't keep: the module of the page that verifies.
		module := exec.Command("go", "run", "./client/webui/verifypage/mkmodule")
		module.Dir, module.Env, module.Stderr = tree, env, os.Stderr
		if err := module.Run(); err != nil {
			return fmt.Errorf("the module of the Verify page: %w", err)
		}
	}
	var sums strings.Builder
	for _, t := range targets {
		if only != "" && only != t.os+"/"+t.arch {
			continue
		}
		dir := filepath.Join(abs, t.os+"-"+t.arch)
		args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-buildid= -s -w -X github.com/affidavit-log/affidavit/cmd/internal/version.commit=" + commit, "-o", dir + string(filepath.Separator)}
		commands := slices.DeleteFunc(slices.Clone(t.commands), func(c string) bool { return command != "" && c != command })
		if len(commands) == 0 {
			continue
		}
		for _, c := range commands {
			args = append(args, "./cmd/"+c)
		}
		cmd := exec.Command("go", args...)
		cmd.Dir = tree
		cmd.Env = append(env[:len(env):len(env)], "GOOS="+t.os, "GOARCH="+t.arch)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s/%s: %w", t.os, t.arch, err)
		}
		for _, c := range commands {
			if t.os == "windows" {
				c += ".exe"
			}
			name := t.os + "-" + t.arch + "/" + c
			b, err := os.ReadFile(filepath.Join(abs, name))
			if err != nil {
				return err
			}
			sbom, err := bill(b, name, commit, at)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(abs, name+".spdx.json"), sbom, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(&sums, "%x  %s\n%x  %s.spdx.json\n", sha256.Sum256(b), name, sha256.Sum256(sbom), name)
		}
	}
	if sums.Len() == 0 {
		return fmt.Errorf("nothing to build: --only %q, --command %q", only, command)
	}
	return os.WriteFile(filepath.Join(abs, "SHA256SUMS"), []byte(sums.String()), 0o644)
}

// The bill of materials is SPDX 2.3 (spdx.github.io/spdx-spec/v2.3).
type (
	document struct {
		Version       string         `json:"spdxVersion"`
		License       string         `json:"dataLicense"`
		ID            string         `json:"SPDXID"`
		Name          string         `json:"name"`
		Namespace     string         `json:"documentNamespace"`
		Creation      creation       `json:"creationInfo"`
		Packages      []pkg          `json:"packages"`
		Relationships []relationship `json:"relationships"`
	}
	creation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	pkg struct {
		ID        string     `json:"SPDXID"`
		Name      string     `json:"name"`
		Version   string     `json:"versionInfo"`
		Location  string     `json:"downloadLocation"`
		Analyzed  bool       `json:"filesAnalyzed"`
		Checksums []checksum `json:"checksums,omitempty"`
		Refs      []ref      `json:"externalRefs,omitempty"`
		Comment   string     `json:"comment,omitempty"`
	}
	checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	ref struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	relationship struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

// bill returns the bill of materials of a binary: what the Go toolchain wrote into it, which is what was linked, and not
// what go.mod would allow.
func bill(binary []byte, name, commit string, at time.Time) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	sum := sha256.Sum256(binary)
	d := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name,
		Namespace: fmt.Sprintf("https://affidavit-log.github.io/sbom/%x", sum),
		// The commit's time, since the time of the build would differ.
		Creation: creation{at.UTC().Format(time.RFC3339), []string{"Tool: affidavit-release"}},
		Packages: []pkg{{
			ID: "SPDXRef-main", Name: info.Path, Version: commit, Location: "NOASSERTION",
			Checksums: []checksum{{"SHA256", hex.EncodeToString(sum[:])}},
		}},
		Relationships: []relationship{{"SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-main"}},
	}
	add := func(id, name, version, purl, comment string) {
		d.Packages = append(d.Packages, pkg{ID: id, Name: name, Version: version, Location: "NOASSERTION", Comment: comment, Refs: []ref{{"PACKAGE-MANAGER", "purl", purl}}})
		d.Relationships = append(d.Relationships, relationship{"SPDXRef-main", "DEPENDS_ON", id})
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	add("SPDXRef-std", "stdlib", version, "pkg:golang/stdlib@"+version, "the Go standard library and runtime, "+runtime.Compiler)
	for i, m := range info.Deps {
		from := ""
		if m.Replace != nil {
			from, m = "replaces "+m.Path+" "+m.Version, m.Replace
		}
		// go.sum's hash is of the module's files, not of an archive, for which SPDX has no algorithm.
		add(fmt.Sprintf("SPDXRef-module-%d", i), m.Path, m.Version, "pkg:golang/"+m.Path+"@"+m.Version, strings.TrimSpace(from+" go.sum: "+cmp.Or(m.Sum, "none")))
	}
	b, err := json.MarshalIndent(d, "", " ")
	return append(b, '\n'), err
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(b)), nil
}
