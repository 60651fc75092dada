# Two commands do everything on a fresh machine with Go: `make demo` and `make test`.
# The others are for people who change the project; `make help` lists them.

GO ?= go
# Seconds that `make fuzz` spends on each fuzz target.
FUZZTIME ?= 10s
# Directory with the shared vectors that don't belong to this repository; tests that want them skip when it is absent.
export AFFIDAVIT_SHARED ?= $(abspath ../shared)

.PHONY: help test-distributed bench-distributed module build demo test check race fuzz vectors interop bench chaos soak clean check-deploy release release-check signer verifiers supply vuln attacks

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

module: ## the WebAssembly module of the Verify page, which the command embeds
	$(GO) run ./client/webui/verifypage/mkmodule

build: module ## the commands, into bin/, without cgo: they run in any container, and start sooner
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

demo: build ## witnesses, a log, a recorder, an auditor and attacks, on this machine, in under two minutes
	$(GO) run ./deploy/demo --bin bin $(DEMOFLAGS)

test: ## all tests that need nothing but Go
	$(GO) test ./...

race: ## the same under the race detector, without what has nothing to race (-short)
	$(GO) test -race -short ./...

check: ## gofmt, vet, staticcheck, go mod tidy, import rules
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$fmt" ] || { echo "gofmt would change:"; echo "$$fmt"; exit 1; }
	$(GO) vet ./...
	GOOS=js GOARCH=wasm $(GO) vet ./client/webui/verifypage/...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	.ci/imports

test-distributed: ## a log of several processes on MariaDB and versitygw, which must be there, under load and faults
	.ci/distributed

bench-distributed: ## the same storage: one process, two, and Tessera's driver alone
	.ci/distributed bench

fuzz: ## every fuzz target for FUZZTIME
	.ci/fuzz $(FUZZTIME)

vectors: ## make the test vectors again; the diff must be empty
	$(GO) generate ./...
	@git diff --exit-code --stat -- testdata

interop: ## our log and witness with other people's, in a module of its own
	cd testdata/interop && $(GO) vet ./... && $(GO) test ./...

bench: build ## every figure that docs/performance.md states, with baselines of the same run; BENCHFLAGS="--duration 10s --rounds 1" is a short form
	bin/affidavit-load bench --bin bin --json bench.json $(BENCHFLAGS)

# What `make profile-NAME` profiles: a package and a benchmark of it.
PROFILE_admission = ./log Add/checkpoint=100ms
PROFILE_append    = ./log Appender
PROFILE_proof     = ./log Proof/random
PROFILE_verify    = ./verifier/tdx VerifyKnownPlatform
PROFILE_admit     = ./verifier ParseAndAdmit
PROFILE_bundle    = ./client/bundle CheckWarm
PROFILE_audit     = ./client/monitor Audit
PROFILE_action    = ./client/session Action
PROFILE_spans     = ./client/session/recorder Record/4
PROFILE_export    = ./client/export OCSF/affidavit

profile-%: ## where the time of a hot path goes: admission, append, proof, verify, admit, bundle, audit, action, spans, export
	@[ -n "$(PROFILE_$*)" ] || { echo "no hot path \"$*\": $(patsubst PROFILE_%,%,$(filter PROFILE_%,$(.VARIABLES)))"; exit 2; }
	mkdir -p bin
	$(GO) test -run '^$$' -bench '^Benchmark$(word 2,$(PROFILE_$*))' -benchtime 3s -cpuprofile bin/$*.prof -o bin/$*.test $(word 1,$(PROFILE_$*))
	$(GO) tool pprof -top -nodecount 40 bin/$*.test bin/$*.prof

# What is broken, and when, is decided by SEED; a failure prints it.
ROUNDS ?= 200
SEED ?= 0
chaos: ## kill the daemons under load and see that nothing is lost: ROUNDS=200 SEED=0 (docs/reliability.md)
	$(GO) test ./cmd/internal/chaos -run '^TestChaos$$' -count=1 -v -timeout 0 -args -rounds $(ROUNDS) -seed $(SEED)

SOAK ?= 30m
soak: ## everything together for SOAK=30m: goroutines, descriptors, memory and disk must not leak
	$(GO) test ./cmd/internal/chaos -run '^TestSoak$$' -count=1 -v -timeout 0 -args -soak $(SOAK)

check-deploy: module ## units, runbooks, metrics, alerts, proxy and manifests, tried on this machine
	.ci/deploy

release: ## what is published, into dist/: binaries, bills of materials, checksums
	$(GO) run ./deploy/release --out dist

release-check: ## the same, built twice, which must give the same bytes
	$(GO) run ./deploy/release --out dist --check

signer: ## the command that holds a key in a PKCS #11 token, into bin/, and its test with SoftHSM; needs cgo and softhsm2
	CGO_ENABLED=1 $(GO) build -trimpath -tags pkcs11 -o bin/ ./cmd/affidavit-signer
	CGO_ENABLED=1 $(GO) test -tags pkcs11 ./cmd/affidavit-signer

verifiers: ## mutated quotes against a fresh verifier, a naive verifier on random cases, and many platforms: the long form
	$(GO) test ./verifier/tdx -run '^(TestMutatedQuotes|TestNaive|TestPlatformsBounded)$$' -count=1 -v -timeout 0 -args -mutations 1000000 -cases 100000 -platforms 1000000

ATTACK ?= 6s
attacks: ## a log under attack while an honest vendor submits: ATTACK=6s before, during and after each
	$(GO) test ./cmd/affidavit-log -run '^TestAttacks$$' -count=1 -v -timeout 0 -args -attack $(ATTACK)

supply: ## what is linked into the commands: licences, numbers of modules, no cgo
	.ci/supply

vuln: ## known vulnerabilities, where their database can be reached
	.ci/vuln

clean: ## what the other targets made
	rm -rf bin bench.json demo-data dist
