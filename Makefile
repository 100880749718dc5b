# Everything that is done with this repository. `make` alone lists it.

SHELL   := /bin/bash
# sudo drops ~/.cargo/bin from the path and changes HOME: use the toolchain of whoever called it.
CALLER  := $(shell getent passwd "$${SUDO_USER:-$$(id -un)}" | cut -d: -f6)
CARGO   ?= $(shell PATH="$$PATH:$$HOME/.cargo/bin:$(CALLER)/.cargo/bin" command -v cargo || echo cargo)
ifeq ($(CARGO),$(CALLER)/.cargo/bin/cargo)
export CARGO_HOME  ?= $(CALLER)/.cargo
export RUSTUP_HOME ?= $(CALLER)/.rustup
endif
PREFIX  ?= /usr/local
UNITDIR ?= /etc/systemd/system
RELEASE := target/release/tunbridge
export CARGO

.PHONY: help setup build demo test check bench install clean

help: ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## install missing packages (root), check for a Rust toolchain
	@netns-scripts/setup.sh

build: ## the optimised binary, target/release/tunbridge
	$(CARGO) build --release

demo: setup build ## containers in a lab of namespaces, real traffic, line by line (root)
	@netns-scripts/demo.sh $(RELEASE)

test: setup check ## setup, then check

check: ## format, lints, all tests; ends with "N passed, N failed" (root)
	@netns-scripts/check.sh

bench: setup build ## throughput against the kernel's own NAT, as ratios (root)
	@netns-scripts/bench.sh $(RELEASE)

install: build ## binary into PREFIX/bin, systemd units into UNITDIR (DESTDIR is honoured)
	install -D -m 0755 $(RELEASE) $(DESTDIR)$(PREFIX)/bin/tunbridge
	install -d $(DESTDIR)$(UNITDIR)
	for unit in tunbridge tunbridge-docker-plugin; do \
	    sed 's|/usr/local/bin|$(PREFIX)/bin|' docs/$$unit.service > $(DESTDIR)$(UNITDIR)/$$unit.service && \
	    chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit.service || exit 1; \
	done
	install -m 0644 docs/tunbridge.socket $(DESTDIR)$(UNITDIR)/tunbridge.socket

clean: ## remove what was built
	$(CARGO) clean
