// Package manifests validates the compose file and the Kubernetes manifests. It is a module of its own, so that its tools
// reach nothing else.
package manifests

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/yannh/kubeconform/pkg/resource"
	"github.com/yannh/kubeconform/pkg/validator"
	"go.yaml.in/yaml/v3"
)

// accepted reports what a command says to its arguments: with --help behind them it parses them, and does nothing.
func accepted(t *testing.T, where string, command string, args []string) {
	t.Helper()
	bin := os.Getenv("AFFIDAVIT_BIN")
	if bin == "" {
		return
	}
	out, err := exec.Command(filepath.Join(bin, filepath.Base(command)), append(slices.Clone(args), "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %s %v: %v\n%.300s", where, command, args, err, out)
	}
}

// Compose's own loader takes the file; every secret and directory is one that prepare makes; the commands take their arguments;
// nothing of ours runs as root or writes to its image.
func TestCompose(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"compose.yaml", "prepare", "prometheus.yaml"} {
		b, err := os.ReadFile(filepath.Join("../container", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin := os.Getenv("AFFIDAVIT_BIN")
	if bin != "" {
		cmd := exec.Command(filepath.Join(dir, "prepare"))
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("prepare: %v\n%s", err, out)
		}
		out, err := exec.Command(filepath.Join(bin, "affidavit"), "log-policy", "check", filepath.Join(dir, "data/etc/log.policy")).CombinedOutput()
		if !bytes.Contains(out, []byte("well-formed")) { // with a warning: three witnesses, of which two
			t.Errorf("the log policy: %v\n%s", err, out)
		}
	}
	o, err := cli.NewProjectOptions([]string{filepath.Join(dir, "compose.yaml")}, cli.WithResolvedPaths(true), cli.WithDiscardEnvFile)
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Services) != 10 {
		t.Errorf("%d services", len(p.Services))
	}
	for name, s := range p.Services {
		if len(s.Entrypoint) == 0 {
			continue // not ours
		}
		if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.SecurityOpt) != 1 {
			t.Errorf("%s is not confined", name)
		}
		accepted(t, name, s.Entrypoint[0], s.Command)
		mounted := make(map[string]bool)
		for _, x := range s.Secrets {
			mounted["/run/secrets/"+x.Source] = true
		}
		for _, v := range s.Volumes {
			mounted[v.Target] = true
			if bin != "" {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		for _, a := range s.Command {
			if !strings.HasPrefix(a, "/") {
				continue
			}
			if !mounted[a] && !mounted[filepath.Dir(a)] {
				t.Errorf("%s: nothing is at %s", name, a)
			}
		}
	}
	for name, x := range p.Secrets {
		if _, err := os.Stat(x.File); bin != "" && err != nil {
			t.Errorf("secret %s: %v", name, err)
		}
	}
}

// kubernetesVersion is the newest whose API the module sigs.k8s.io/kubectl-validate describes.
const kubernetesVersion = "1.30"

// schemas writes the schemas of Kubernetes' objects, as kubeconform wants them, made of the API's own description. Strict:
// members that the API doesn't know are refused.
func schemas(t *testing.T) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kubectl-validate").Output()
	if err != nil {
		t.Fatal(err)
	}
	definitions := make(map[string]map[string]any)
	for _, group := range []string{"api/v1", "apis/apps/v1", "apis/policy/v1", "apis/networking.k8s.io/v1"} {
		b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "pkg/openapiclient/builtins", kubernetesVersion, group+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var api struct {
			Components struct{ Schemas map[string]map[string]any }
		}
		if err := json.Unmarshal(bytes.ReplaceAll(b, []byte(`"#/components/schemas/`), []byte(`"#/definitions/`)), &api); err != nil {
			t.Fatal(err)
		}
		maps.Copy(definitions, api.Components.Schemas)
	}
	for _, d := range definitions {
		if d["properties"] != nil && d["additionalProperties"] == nil {
			d["additionalProperties"] = false
		}
	}
	ref := regexp.MustCompile(`"#/definitions/([^"]+)"`)
	dir := t.TempDir()
	n := 0
	for name, d := range definitions {
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 || d["properties"] == nil {
			continue
		}
		k := kinds[0].(map[string]any)
		reached := map[string]map[string]any{}
		var reach func(name string)
		reach = func(name string) {
			if reached[name] != nil {
				return
			}
			reached[name] = definitions[name]
			b, _ := json.Marshal(definitions[name])
			for _, m := range ref.FindAllStringSubmatch(string(b), -1) {
				reach(m[1])
			}
		}
		reach(name)
		group, _, _ := strings.Cut(k["group"].(string), ".")
		file := strings.ToLower(k["kind"].(string))
		if group != "" {
			file += "-" + group
		}
		b, err := json.Marshal(map[string]any{"$ref": "#/definitions/" + name, "definitions": reached})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file+"-"+k["version"].(string)+".json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n < 10 {
		t.Fatalf("%d kinds", n)
	}
	return dir
}

func validate(t *testing.T, v validator.Validator, name string, b []byte) (bad int) {
	resources, errs := resource.FromStream(t.Context(), name, bytes.NewReader(b))
	for r := range resources {
		if res := v.ValidateResource(r); res.Status != validator.Valid {
			bad++
			t.Logf("%s: %v", name, res.Err)
		}
	}
	for err := range errs {
		bad++
		t.Logf("%s: %v", name, err)
	}
	return bad
}

type pod struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
		Template             struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     struct {
				SecurityContext struct {
					RunAsNonRoot bool `yaml:"runAsNonRoot"`
				} `yaml:"securityContext"`
				Containers []struct {
					Command, Args []string
					Ports         []struct {
						Name          string
						ContainerPort int `yaml:"containerPort"`
					}
					ReadinessProbe, LivenessProbe map[string]any
					SecurityContext               struct {
						ReadOnlyRootFilesystem bool `yaml:"readOnlyRootFilesystem"`
					} `yaml:"securityContext"`
					VolumeMounts []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct{ Name string }
			}
		}
	}
}

// The manifests are what the API takes, and agree with each other and with the commands. Fails if a member is misspelt, a port or
// volume is named that isn't there, a budget or a network policy selects nothing, or a flag is unknown.
func TestKubernetes(t *testing.T) {
	v, err := validator.New([]string{filepath.Join(schemas(t), "{{ .ResourceKind }}{{ .KindSuffix }}.json")}, validator.Opts{Strict: true, KubernetesVersion: "master"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../kubernetes/*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	var labels []map[string]string
	var selectors []map[string]string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if validate(t, v, f, b) > 0 {
			t.Error("see above")
		}
		for _, edit := range [][2]string{{"readOnlyRootFilesystem", "readonlyRootFilesystem"}, {"replicas: ", "replicas: x"}, {"podSelector", "podSelectors"}, {"minAvailable", "minimumAvailable"}} {
			if bad := bytes.Replace(b, []byte(edit[0]), []byte(edit[1]), 1); !bytes.Equal(bad, b) && validate(t, v, "with a mistake", bad) == 0 {
				t.Errorf("%s with %q is valid, too: nothing was checked", f, edit[1])
			}
		}
		for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
			var node yaml.Node
			if err := d.Decode(&node); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			var p pod
			_ = node.Decode(&p) // other kinds have other selectors
			switch p.Kind {
			case "Deployment", "StatefulSet":
				tpl := p.Spec.Template
				labels = append(labels, tpl.Metadata.Labels)
				if !maps.Equal(p.Spec.Selector.MatchLabels, tpl.Metadata.Labels) || !tpl.Spec.SecurityContext.RunAsNonRoot || len(tpl.Spec.Containers) != 1 {
					t.Errorf("%s: selector %v, labels %v, or root", p.Metadata.Name, p.Spec.Selector.MatchLabels, tpl.Metadata.Labels)
				}
				c := tpl.Spec.Containers[0]
				accepted(t, p.Metadata.Name, c.Command[0], c.Args)
				if !c.SecurityContext.ReadOnlyRootFilesystem {
					t.Errorf("%s: its image can be written to", p.Metadata.Name)
				}
				volumes := map[string]bool{}
				for _, x := range tpl.Spec.Volumes {
					volumes[x.Name] = true
				}
				for _, x := range p.Spec.VolumeClaimTemplates {
					volumes[x.Metadata.Name] = true
				}
				paths := map[string]bool{}
				for _, m := range c.VolumeMounts {
					if !volumes[m.Name] {
						t.Errorf("%s: no volume %s", p.Metadata.Name, m.Name)
					}
					paths[m.MountPath] = true
				}
				all := strings.Join(c.Args, " ")
				for _, a := range c.Args {
					if strings.HasPrefix(a, "/") && !paths[a] && !paths[filepath.Dir(a)] {
						t.Errorf("%s: nothing is at %s", p.Metadata.Name, a)
					}
				}
				for _, port := range c.Ports {
					if !strings.Contains(all, ":"+strconv.Itoa(port.ContainerPort)) {
						t.Errorf("%s: nothing listens on %d", p.Metadata.Name, port.ContainerPort)
					}
				}
			case "PodDisruptionBudget":
				selectors = append(selectors, p.Spec.Selector.MatchLabels)
			}
		}
	}
	for _, s := range selectors {
		if !slices.ContainsFunc(labels, func(l map[string]string) bool {
			for k, v := range s {
				if l[k] != v {
					return false
				}
			}
			return len(s) > 0
		}) {
			t.Errorf("a budget selects nothing: %v", s)
		}
	}
	if len(labels) != 3 || len(selectors) != 3 {
		t.Errorf("%d workloads, %d budgets", len(labels), len(selectors))
	}
}

// The container file's last stage has no shell, isn't root, and copies what the first one makes.
func TestContainerfile(t *testing.T) {
	b, err := os.ReadFile("../container/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(b), "\n\nFROM ")
	for _, want := range []string{"distroless/static", ":nonroot\n", "USER 65532:65532\n", "COPY --from=build /out/ /usr/bin/\n", "ENTRYPOINT ["} {
		if !strings.Contains(last, want) {
			t.Errorf("no %q in\n%s", want, last)
		}
	}
	if strings.Contains(last, "RUN ") {
		t.Error("the last stage runs something, and has no shell")
	}
}
