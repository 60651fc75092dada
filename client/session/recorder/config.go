package recorder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/inference"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A File is the recorder's configuration file, YAML. An unknown key is an error. It is
// part of the measured image: whoever can change it can change what the recorder says.
type File struct {
	Log       string `yaml:"log"`        // URL of the log
	LogPolicy string `yaml:"log-policy"` // file, c2sp.org/tlog-policy; optional
	Token     string `yaml:"token-file"` // file with the vendor's bearer token
	Vendor    string `yaml:"vendor"`     // vendor id
	Quotes    string `yaml:"quotes"`     // auto, configfs, device, dstack or dstack:SOCKET; sim:SEED:UNIXTIME for made-up hardware

	Release struct {
		Name   string `yaml:"name"`
		SHA256 string `yaml:"sha256"`
	} `yaml:"release"`
	PersistentStorage string `yaml:"persistent-storage"` // none, encrypted-ephemeral or persistent
	EgressPolicy      string `yaml:"egress-policy"`      // digest; optional
	EventLog          string `yaml:"event-log"`          // digest; optional
	IsolationScope    string `yaml:"isolation-scope"`    // session by default

	// Tenants are the customer's pseudonyms by month, such as "2026-11". The file is read again when a month isn't there.
	Tenants map[string]string `yaml:"tenants"`

	Channels  []FileChannel `yaml:"channels"` // keys that the customer talks to
	Models    []FileModel   `yaml:"models"`   // where models run
	Retention struct {
		Claim       string   `yaml:"claim"`
		Enforcement string   `yaml:"enforcement"`
		Basis       []string `yaml:"basis"`
	} `yaml:"retention"`
	Erase       []string `yaml:"erase"`        // command that erases the workspace, and its arguments; optional
	KeepContent bool     `yaml:"keep-content"` // keep prompts, arguments and results in the customer's private file
	Content     []string `yaml:"content"`      // more attributes that are content
	Clear       []string `yaml:"clear"`        // unlisted text attributes that are kept in the clear

	Dir         string        `yaml:"dir"`             // in guest memory
	AnyDir      bool          `yaml:"any-file-system"` // accept a dir that isn't, for tests and demonstrations
	Out         string        `yaml:"out"`             // for bundles and private files
	Socket      string        `yaml:"socket"`          // of the API
	Users       []int         `yaml:"users"`           // user ids of agents
	Admins      []int         `yaml:"admins"`          // user ids that may read everything
	OTLPGRPC    string        `yaml:"otlp-grpc"`       // loopback address, such as 127.0.0.1:4317; optional
	OTLPHTTP    string        `yaml:"otlp-http"`       // loopback address, such as 127.0.0.1:4318; optional
	API         string        `yaml:"api"`             // loopback address, for agents without unix sockets; optional
	Metrics     string        `yaml:"metrics"`         // private address; optional
	Linger      time.Duration `yaml:"linger"`          // 10s by default
	Idle        time.Duration `yaml:"idle"`            // 30m by default
	RunsWait    time.Duration `yaml:"runs-wait"`       // 1m by default
	MaxSessions int           `yaml:"max-sessions"`    // 2048 by default

	GeminiRelatives []string       `yaml:"gemini-relatives"`
	Inference       *FileInference `yaml:"inference"`
}

// A FileChannel is a key: by its digest, or by the certificate that has it.
type FileChannel struct {
	Type        string `yaml:"type"` // tls_spki_sha256 by default
	SHA256      string `yaml:"sha256"`
	Certificate string `yaml:"certificate"` // PEM file
}

// A FileModel is a Model.
type FileModel struct {
	Provider  string      `yaml:"provider"`
	Model     string      `yaml:"model"`
	Execution string      `yaml:"execution"`
	Channel   FileChannel `yaml:"channel"`
	ModelRun  string      `yaml:"model-run"`
	Runs      string      `yaml:"runs"` // URL of the inference proxy that has the records of its runs; not for hops
}

// A FileInference is an inference.Config.
type FileInference struct {
	Listen   string        `yaml:"listen"`
	Upstream string        `yaml:"upstream"`
	Provider string        `yaml:"provider"`
	Channel  FileChannel   `yaml:"channel"`
	Weights  string        `yaml:"weights"`
	Interval time.Duration `yaml:"interval"` // zero: a record per call
	Hops     []FileModel   `yaml:"hops"`
}

// ParseFile parses a configuration file.
func ParseFile(b []byte) (*File, error) {
	f := new(File)
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(f); err != nil {
		return nil, err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	for _, s := range []struct{ name, value string }{
		{"log", f.Log}, {"vendor", f.Vendor}, {"token-file", f.Token}, {"quotes", f.Quotes}, {"dir", f.Dir}, {"out", f.Out}, {"socket", f.Socket},
		{"release.name", f.Release.Name}, {"release.sha256", f.Release.SHA256},
	} {
		if s.value == "" {
			return nil, fmt.Errorf("%s is missing", s.name)
		}
	}
	switch f.PersistentStorage {
	case record.StorageNone, record.StorageEncryptedEphemeral, record.StoragePersistent:
	default:
		return nil, fmt.Errorf("persistent-storage %q is not none, encrypted-ephemeral or persistent", f.PersistentStorage)
	}
	for _, a := range []struct{ name, value string }{{"otlp-grpc", f.OTLPGRPC}, {"otlp-http", f.OTLPHTTP}, {"api", f.API}} {
		if a.value == "" {
			continue
		}
		// Whoever reaches these ports can report for any agent.
		host, _, err := net.SplitHostPort(a.value)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("%s %q is not a loopback address and port, such as 127.0.0.1:4317", a.name, a.value)
		}
	}
	if len(f.Users) == 0 {
		return nil, errors.New("users is empty: nobody may report anything")
	}
	return f, nil
}

func parseDigest(name, s string) (*record.Digest, error) {
	if s == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
		return nil, fmt.Errorf("%s %q is not 64 hexadecimal digits in lower case", name, s)
	}
	return (*record.Digest)(b), nil
}

func (c *FileChannel) channel(name string) (record.Channel, error) {
	ch := record.Channel{Type: c.Type}
	if ch.Type == "" {
		ch.Type = record.ChannelTLSSPKI
	}
	if ch.Type != record.ChannelTLSSPKI && ch.Type != record.ChannelHPKEKey {
		return ch, fmt.Errorf("%s.type %q", name, c.Type)
	}
	switch {
	case c.Certificate != "" && c.SHA256 == "" && ch.Type == record.ChannelTLSSPKI:
		b, err := os.ReadFile(c.Certificate)
		if err != nil {
			return ch, err
		}
		p, _ := pem.Decode(b)
		if p == nil {
			return ch, fmt.Errorf("%s: no PEM", c.Certificate)
		}
		cert, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return ch, fmt.Errorf("%s: %w", c.Certificate, err)
		}
		ch.SHA256 = sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		return ch, nil
	case c.Certificate == "" && c.SHA256 != "":
		d, err := parseDigest(name+".sha256", c.SHA256)
		if err == nil {
			ch.SHA256 = *d
		}
		return ch, err
	}
	return ch, fmt.Errorf("%s: want either sha256 or, for TLS, certificate", name)
}

// Config makes the configuration of a Recorder of f. read reads the file again, for tenants of a new month.
func (f *File) Config(ctx context.Context, read func() (*File, error)) (c Config, err error) {
	s, err := f.session(ctx)
	if err != nil {
		return c, err
	}
	c = Config{
		Session: s, Dir: f.Dir, Out: f.Out, Linger: f.Linger, Idle: f.Idle, RunsWait: f.RunsWait, MaxSessions: f.MaxSessions,
		Retention: record.Retention{Claim: f.Retention.Claim, Enforcement: f.Retention.Enforcement, Basis: f.Retention.Basis},
	}
	channels := []record.Channel{}
	for i := range f.Channels {
		ch, err := f.Channels[i].channel(fmt.Sprintf("channels[%d]", i))
		if err != nil {
			return c, err
		}
		channels = append(channels, ch)
	}
	c.Options = func(now time.Time) (session.Options, error) {
		month := now.UTC().Format("2006-01")
		tenant, ok := f.Tenants[month]
		if !ok {
			again, err := read()
			if err != nil {
				return session.Options{}, err
			}
			if tenant, ok = again.Tenants[month]; !ok {
				return session.Options{}, fmt.Errorf("the configuration has no tenant for %s", month)
			}
		}
		d, err := parseDigest("tenants."+month, tenant)
		if err != nil || d == nil {
			return session.Options{}, fmt.Errorf("tenant for %s: %v", month, err)
		}
		return session.Options{Tenant: *d, TenantEpoch: month, IsolationScope: f.IsolationScope, Channels: channels}, nil
	}
	for i, m := range f.Models {
		ch, err := m.Channel.channel(fmt.Sprintf("models[%d].channel", i))
		if err != nil {
			return c, err
		}
		model := Model{Provider: m.Provider, Model: m.Model, Execution: m.Execution, Channel: ch}
		if model.Provider == "" || model.Model == "" {
			return c, fmt.Errorf("models[%d]: provider and model are required; \"*\" stands for any", i)
		}
		switch m.Execution {
		case "", record.ExecutionTEE, record.ExecutionPolicyZDR, record.ExecutionUnattested:
		default:
			return c, fmt.Errorf("models[%d].execution %q is not tee, policy-zdr or unattested", i, m.Execution)
		}
		if model.ModelRun, err = parseDigest("model-run", m.ModelRun); err != nil {
			return c, err
		}
		if m.Runs != "" {
			if model.Runs, err = url.Parse(m.Runs); err != nil {
				return c, fmt.Errorf("models[%d].runs: %w", i, err)
			}
			if m.Execution != record.ExecutionTEE || m.ModelRun != "" {
				return c, fmt.Errorf("models[%d]: runs goes with execution tee, and without model-run", i)
			}
			if _, err := inference.NewClient(model.Runs, ch); err != nil {
				return c, fmt.Errorf("models[%d].runs: %w", i, err)
			}
		}
		if model.ModelRun != nil && m.Execution != record.ExecutionTEE {
			return c, fmt.Errorf("models[%d]: model-run goes with execution tee only", i)
		}
		c.Models = append(c.Models, model)
	}
	if len(f.Erase) > 0 {
		c.Erase = func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, f.Erase[0], f.Erase[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %.200s", f.Erase[0], err, out)
			}
			return nil
		}
	}
	return c, nil
}

// session makes what sessions and model runs have in common.
func (f *File) session(ctx context.Context) (c session.Config, err error) {
	cc := client.Config{}
	if cc.Token, err = client.ReadToken(f.Token); err != nil {
		return c, err
	}
	if f.LogPolicy != "" {
		b, err := os.ReadFile(f.LogPolicy)
		if err != nil {
			return c, err
		}
		if cc.LogPolicy, err = checkpoint.ParsePolicy(b); err != nil {
			return c, fmt.Errorf("%s: %w", f.LogPolicy, err)
		}
	}
	log, err := client.New(f.Log, cc)
	if err != nil {
		return c, err
	}
	q, err := quotes(ctx, f.Quotes)
	if err != nil {
		return c, err
	}
	c = session.Config{Log: log, Quotes: q, Vendor: f.Vendor, KeepContent: f.KeepContent, Content: f.Content, AnyFileSystem: f.AnyDir}
	c.Environment.PersistentStorage = f.PersistentStorage
	c.Environment.Release.Name = f.Release.Name
	d, err := parseDigest("release.sha256", f.Release.SHA256)
	if err != nil {
		return c, err
	}
	c.Environment.Release.SHA256 = *d
	if c.Environment.EgressPolicy, err = parseDigest("egress-policy", f.EgressPolicy); err != nil {
		return c, err
	}
	c.Environment.EventLog, err = parseDigest("event-log", f.EventLog)
	return c, err
}

// quotes finds the source of quotes of this name.
func quotes(ctx context.Context, name string) (quote.Source, error) {
	kind, rest, _ := strings.Cut(name, ":")
	switch kind {
	case "auto":
		return quote.Detect(ctx)
	case "configfs":
		return quote.ConfigFS()
	case "device":
		return quote.Device()
	case "dstack":
		return quote.Dstack(rest)
	case "sim":
		// Made-up hardware, which nobody trusts who doesn't name its made-up root.
		seed, from, ok := strings.Cut(rest, ":")
		n, err := strconv.ParseInt(from, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("quotes %q: want sim:SEED:UNIXTIME", name)
		}
		p := tdxsim.NewPKI([]byte(seed), time.Unix(n, 0)).NewPlatform(tdxsim.PlatformOptions{})
		return quote.Sim(p, tdxsim.QuoteOptions{}), nil
	}
	return nil, fmt.Errorf("quotes %q is not auto, configfs, device or dstack", name)
}

// InferenceConfig makes the configuration of the proxy, which has a directory of its own below dir.
func (f *File) InferenceConfig(ctx context.Context) (c inference.Config, err error) {
	i := f.Inference
	if c.Session, err = f.session(ctx); err != nil {
		return c, err
	}
	// A model run says nothing of storage (FORMAT.md, section 2.7).
	c.Session.Environment.PersistentStorage = ""
	if c.Upstream, err = url.Parse(i.Upstream); err != nil || c.Upstream.Host == "" {
		return c, fmt.Errorf("inference.upstream %q is not a URL", i.Upstream)
	}
	c.Dir, c.Out, c.Provider, c.Interval = f.Dir+"/inference", f.Out, i.Provider, i.Interval
	if c.Interval != 0 && c.Interval < time.Second {
		return c, fmt.Errorf("inference.interval %v is less than a second", c.Interval)
	}
	if c.Channel, err = i.Channel.channel("inference.channel"); err != nil {
		return c, err
	}
	if c.Weights, err = parseDigest("inference.weights", i.Weights); err != nil {
		return c, err
	}
	for n, h := range i.Hops {
		ch, err := h.Channel.channel(fmt.Sprintf("inference.hops[%d].channel", n))
		if err != nil {
			return c, err
		}
		if h.Runs != "" {
			return c, fmt.Errorf("inference.hops[%d]: a hop has no runs", n)
		}
		up := record.Upstream{Provider: h.Provider, Execution: h.Execution, Channel: ch}
		if up.ModelRun, err = parseDigest("model-run", h.ModelRun); err != nil {
			return c, err
		}
		c.Hops = append(c.Hops, up)
	}
	return c, nil
}
