# make up       a three-node cluster on this machine, with a demo on it
# make test     every test
# See README.md.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/xebec
export XEBEC_TOOLS ?= $(CACHE)/tools
# Outside the clone, so that a fresh clone builds in little time and nothing stray can be committed.
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(XEBEC_TOOLS)/bin:$(PATH)
NAME ?= xebec
NODES ?=

.DEFAULT_GOAL := build
.PHONY: build up down demo test test-vm lint tidy bench setup

build: setup-build ## the release binary, at ./bin/xebec
	cargo build --release --package xebec
	@mkdir -p bin
	@cmp -s $(CARGO_TARGET_DIR)/release/xebec bin/xebec || install -m 0755 -p $(CARGO_TARGET_DIR)/release/xebec bin/xebec
	@ln -sf xebec bin/xebec-cni

up: setup build ## a cluster with the demo
	./bin/xebec up --name $(NAME) $(if $(NODES),--nodes $(NODES))
	XEBEC=$(CURDIR)/bin/xebec ./demo/run.sh $(NAME)

down: ## takes the cluster away
	./bin/xebec down --name $(NAME)

demo:
	XEBEC=$(CURDIR)/bin/xebec ./demo/run.sh $(NAME)

# One after the other to the last, whatever misses its bound; then it is said which did.
bench: setup-bench build ## the figures
	@archive=$$(./demo/build-images.sh busybox); missed=; \
	for what in start "pods --archive $$archive" api control cni dns "net --archive $$archive --pictures bin/pictures"; do \
		echo "xebec bench $$what"; ./bin/xebec bench $$what || missed="$$missed $${what%% *}"; \
	done; \
	[ -z "$$missed" ] || { echo "not all figures hold:$$missed"; exit 1; }

test-vm: setup-vm build ## Debian's own kernels, in virtual machines
	XEBEC=$(CURDIR)/bin/xebec ./scripts/vm.sh bookworm tests/vm/old_kernel.sh
	XEBEC=$(CURDIR)/bin/xebec IMAGE=$$(./demo/build-images.sh busybox) ./scripts/vm.sh backports tests/vm/cluster.sh
	XEBEC=$(CURDIR)/bin/xebec IMAGE=$$(./demo/build-images.sh busybox) ./tests/vm/machines.sh

test: setup-test ## every test
	./scripts/test.sh

lint: setup-build
	cargo fmt --all --check
	cargo clippy --workspace --exclude xebec-ebpf-programs --all-targets -- -D warnings

tidy: setup-build
	cargo run --quiet --package xtask -- tidy

setup: ## what a cluster needs
	@./scripts/setup.sh run

.PHONY: setup-build setup-test setup-bench setup-vm
setup-build:
	@./scripts/setup.sh build

setup-test:
	@./scripts/setup.sh test

setup-bench:
	@./scripts/setup.sh bench

setup-vm:
	@./scripts/setup.sh vm
