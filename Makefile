# The tools' versions, pinned here only.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
CYCLONEDX   = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

# The modules of the tree: the service, and its end-to-end tests with their requirements.
MODULES = . internal/e2e

TESTFLAGS =
FUZZTIME  = 5s
CHAOS     = 25
PLATFORMS = linux/amd64 linux/arm64 darwin/arm64 windows/amd64

.PHONY: help run test chaos lint fmt vet staticcheck fuzz vuln bench release reproducible ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

run: ## run the service
	go run ./cmd/authd

test: ## run all tests on a Postgres of their own (TESTFLAGS='-race -run Login')
	go run ./internal/testpg/cmd/withpg -- .ci/test $(TESTFLAGS)

chaos: ## run the fault tests with CHAOS (25) times the faults of a normal run
	CHAOS=$(CHAOS) go run ./internal/testpg/cmd/withpg -- go test -C internal/e2e -timeout 2h -count 1 -v -p 1 ./faults ./fleet \
		-run 'KilledAtAnyMoment|BusGoes|DatabaseGoes|TwoRelays|SilentNetwork|AFleetSurvives|TwoReleases'

lint: fmt vet staticcheck ## check the code without running it

fmt:
	@files=$$(gofmt -l .) && test -z "$$files" || { echo "gofmt -w would change:" $$files; exit 1; }

vet:
	@set -e; for dir in $(MODULES); do (set -x; go vet -C $$dir ./...); done

staticcheck:
	@set -e; for dir in $(MODULES); do (set -x; go run -C $$dir $(STATICCHECK) ./...); done

fuzz: ## run every fuzz target for FUZZTIME (5s)
	.ci/fuzz $(FUZZTIME)

bench: ## measure, each program beside its limit; docs/performance.md has figures
	go run ./bench/verify
	go run ./bench/forward
	go run ./bench/login
	go run ./bench/refresh
	go run ./bench/verifier
	go run ./bench/relay
	go run ./bench/enumeration
	go run ./internal/testpg/cmd/withpg -- go run ./bench/storm
	go run ./bench/fair
	go run ./bench/events
	go run ./bench/start
	go run ./bench/replicas
	go run ./bench/users # -users 10000,100000,1000000,10000000 takes 20 GB and half an hour more

vuln: ## look for known vulnerabilities in what we call
	.ci/vuln $(GOVULNCHECK)

release: ## build PLATFORMS into dist/, with sums and bills of materials (VERSION=1.2.3)
	.ci/release $(CYCLONEDX) $(PLATFORMS)

reproducible: ## build a release twice and compare
	.ci/reproducible

ci: ## run everything, as CI does
	bash .ci/run
