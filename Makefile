# Everything that is done with this repository. `make` alone says what there is.
#
#   make demo    cluster, image, install, and the hooks at work on real pods
#   make test    make check, the end-to-end tests, some crashes and faults; CI runs exactly this

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The parts of a check are read one after the other, and cargo and Go use all cores by themselves.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

CLUSTER := e2e/cluster/cluster
say = @printf '\n==> %s\n' '$(1)'

.PHONY: help
help: ## What there is
	@awk 'BEGIN { FS = ":.*## " } /^## / { printf "\n%s\n", substr($$0, 4) } /^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

## The two commands

.PHONY: demo test
demo: ## The hooks at work on real pods: cluster, image, install, narration (leaves the cluster up)
	@hack/with-cluster $(MAKE) image
	@hack/install
	@demo/run

test: ## make check, then the end-to-end tests, some crashes and some faults on a real cluster
	@hack/test

## Checks

.PHONY: check fmt shell licences mistakes lint unit docs manifests
check: compiler fmt shell licences mistakes lint unit docs manifests ## All of the following; no cluster needed

fmt: ## Formatting
	$(call say,cargo fmt --check)
	@cargo fmt --check

shell: ## Shell scripts
	$(call say,shellcheck)
	@hack/shellcheck

licences: ## Licences, banned crates, sources
	$(call say,cargo deny)
	@hack/licences

mistakes: ## The mistakes on purpose of make faults can be made
	$(call say,hack/planted)
	@hack/planted >/dev/null

lint: ## clippy, warnings are errors
	$(call say,cargo clippy)
	@cargo clippy --locked --all-targets -- -D warnings
	@cargo clippy --locked --test e2e --test faults -- -D warnings

unit: ## Unit tests; one of them compares crds/ with src/api
	$(call say,cargo test)
	@cargo test --locked --lib --bins

.PHONY: convergence
convergence: ## A crash after every effect of every story of a decision; `make unit` plays a third of them
	@CONVERGENCE_ALL=1 cargo test --locked --lib convergence

docs: ## The documentation builds without a warning
	$(call say,cargo doc)
	@RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet

manifests: ## kubectl kustomize of everything in config/, crds/ and demo/
	$(call say,kubectl kustomize)
	@hack/kustomize-check

.PHONY: compiler
compiler:
	@source hack/common.sh && need_compiler

## Parts

.PHONY: e2e faults uninstall-story bench bench-certificates tls-scan fuzz image install crds cluster cluster-status cluster-down clean
e2e: ## The end-to-end tests alone; ARGS='-- NAME' for some of them
	@source hack/common.sh && use_cluster && cargo test --locked --test e2e $(ARGS)

uninstall-story: ## A thousand hooks uninstalled, with release-all killed in its middle; minutes
	@source hack/common.sh && use_cluster && E2E_HOOKS=$${E2E_HOOKS:-1000} cargo test --locked --test e2e -- what_is_uninstalled

faults: ## The promises under fire: crashes, faults, failover; ARGS='WHAT' for a part (docs/faults.md)
	@hack/faults $(ARGS)

bench: ## What an acknowledgement costs, measured; target/bench.json
	@hack/bench acknowledgements

bench-certificates: ## How many certificates a second; target/bench-certificates.json
	@hack/bench certificates

tls-scan: ## The endpoint's TLS as testssl.sh and sslyze see it (2 minutes, after make install)
	@hack/tls-scan

fuzz: ## What reads PEM, X.509 and Secrets, fuzzed; FUZZ_SECONDS (60) for each target
	@hack/fuzz

image: ## target/image/krake-hooks.tar, nothing to do if nothing changed
	@hack/image

install: ## Image and config/default into the cluster; waits until the operator is ready
	@hack/install

crds: ## Generate crds/ from src/api
	@cargo run --quiet --locked -- crds --directory crds

cluster: ## Start the cluster (see e2e/cluster/cluster help); prints the export line
	@$(CLUSTER) up

cluster-status: ## One line for each of its components
	@$(CLUSTER) status

cluster-down: ## Remove the cluster, and all that belongs to it
	@$(CLUSTER) down

clean: ## Remove what was built here; caches and clusters stay
	@rm -rf target
