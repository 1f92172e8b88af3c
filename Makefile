# What a person runs. Every target is a thin call of cargo or of a script in ci/, so that a developer, CI and a release
# all run the same thing.

# rustup's cargo first: the one of Debian 12 is too old for this workspace.
CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:$(PATH)

# Where `make install` puts things; DESTDIR is for packagers.
PREFIX ?= /usr/local
DESTDIR ?=

# A machnet binary to use instead of building one: `make demo MACHNET=target/debug/machnet`.
MACHNET ?=
# Further arguments, for example: make demo ARGS='--json', make test ARGS='fmt clippy'.
ARGS ?=

version := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -1)
# Cargo chooses features by all that it builds at once: what brings tokio and the benches' peers would bring them into the C library.
not_shipped := --exclude machnet-benches --exclude machnet-conformance --exclude machnet-example-http

release_dir := $(or $(CARGO_TARGET_DIR),target)/release
# Where `make dpdk` puts the plugin of driver dpdk. It is for the system that it was built on.
dpdk_dir := $(or $(CARGO_TARGET_DIR),target)/dpdk
plugin := libmachnet_dpdk.so

.PHONY: help demo build dpdk test bench doc dist container install uninstall clean need-cargo

help:
	@echo 'make demo      build, then measure two sidecars beside kernel TCP and UDP on this machine (a minute or two)'
	@echo 'make build     build the machnet command, the C library and the Rust example, with optimisation'
	@echo 'make dpdk      build the plugin of driver dpdk, which make install then installs, too (needs libdpdk-dev)'
	@echo 'make test      install what the tests need and run all of them; ARGS="fmt clippy" runs only these steps'
	@echo 'make bench     run every bench this machine allows; NAME=crossing runs one'
	@echo 'make doc       the documentation of the Rust crates, into target/doc'
	@echo 'make dist      the packages of every language for this processor, into target/dist; ARGS="x86_64 aarch64" for both'
	@echo 'make container the container image machnet, with podman; ARGS="--tool docker" with docker'
	@echo 'make install   into PREFIX=$(PREFIX); respects DESTDIR'
	@echo 'make uninstall take away what install put there'
	@echo 'make clean     remove what was built'

need-cargo:
	@command -v cargo >/dev/null 2>&1 || { \
	  echo 'cargo is missing. Install it with rustup: https://rustup.rs (the version that this project pins is then fetched by itself).' >&2; \
	  exit 1; }
	@command -v cc >/dev/null 2>&1 || { \
	  echo 'A C compiler is missing (cargo links with it). On Debian: apt-get install gcc libc6-dev' >&2; exit 1; }

build: need-cargo
	cargo build --release --locked --workspace $(not_shipped)

dpdk:
	@dpdk/build.sh --out $(dpdk_dir) $(ARGS)

demo: $(if $(MACHNET),,need-cargo)
ifeq ($(MACHNET),)
	cargo build --release --locked --workspace $(not_shipped) --bin machnet
	@if dpdk/build.sh --can >/dev/null 2>&1; then dpdk/build.sh --out $(dpdk_dir) >/dev/null; fi
endif
	$(or $(MACHNET),$(release_dir)/machnet) demo $(ARGS)

test:
	@ci/test.sh $(ARGS)

bench: need-cargo
	@ci/bench.sh $(NAME)

doc: need-cargo
	cargo doc --locked --workspace --no-deps --lib

dist: need-cargo
	@ci/dist.sh $(ARGS)

container: need-cargo
	@ci/container.sh build $(ARGS)

# libmachnet_shim is the name that programs written for Microsoft's library link with.
# Root need not have cargo: `make build && sudo make install`.
install:
	@[ -x $(release_dir)/machnet ] && [ -e $(release_dir)/libmachnet.so ] || { echo 'Run "make build" first.' >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/lib/cmake/machnet $(DESTDIR)$(PREFIX)/include
	install -m 0755 $(release_dir)/machnet $(DESTDIR)$(PREFIX)/bin/machnet
	install -m 0755 $(release_dir)/libmachnet.so $(DESTDIR)$(PREFIX)/lib/libmachnet.so.$(version)
	ln -sf libmachnet.so.$(version) $(DESTDIR)$(PREFIX)/lib/libmachnet.so.0
	ln -sf libmachnet.so.0 $(DESTDIR)$(PREFIX)/lib/libmachnet.so
	install -m 0644 $(release_dir)/libmachnet.a $(DESTDIR)$(PREFIX)/lib/libmachnet.a
	ln -sf libmachnet.so $(DESTDIR)$(PREFIX)/lib/libmachnet_shim.so
	ln -sf libmachnet.a $(DESTDIR)$(PREFIX)/lib/libmachnet_shim.a
	@[ -e $(dpdk_dir)/$(plugin) ] || echo 'without the plugin of driver dpdk; "make dpdk" builds it'
	[ ! -e $(dpdk_dir)/$(plugin) ] || install -d $(DESTDIR)$(PREFIX)/lib/machnet
	[ ! -e $(dpdk_dir)/$(plugin) ] || install -m 0755 $(dpdk_dir)/$(plugin) $(DESTDIR)$(PREFIX)/lib/machnet/$(plugin)
	install -m 0644 ffi/include/*.h $(DESTDIR)$(PREFIX)/include/
	sed 's/@VERSION@/$(version)/' ffi/package/machnet.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/machnet.pc
	sed 's/@VERSION@/$(version)/' ffi/package/machnet-config-version.cmake.in > $(DESTDIR)$(PREFIX)/lib/cmake/machnet/machnet-config-version.cmake
	install -m 0644 ffi/package/machnet-config.cmake $(DESTDIR)$(PREFIX)/lib/cmake/machnet/
	chmod 0644 $(DESTDIR)$(PREFIX)/lib/pkgconfig/machnet.pc $(DESTDIR)$(PREFIX)/lib/cmake/machnet/machnet-config-version.cmake

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/machnet $(DESTDIR)$(PREFIX)/lib/machnet/$(plugin)
	rm -f $(foreach name,machnet machnet_shim,$(foreach kind,so a,$(DESTDIR)$(PREFIX)/lib/lib$(name).$(kind)))
	rm -f $(DESTDIR)$(PREFIX)/lib/libmachnet.so.0 $(DESTDIR)$(PREFIX)/lib/libmachnet.so.$(version) $(DESTDIR)$(PREFIX)/lib/pkgconfig/machnet.pc
	rm -f $(DESTDIR)$(PREFIX)/lib/cmake/machnet/machnet-config.cmake $(DESTDIR)$(PREFIX)/lib/cmake/machnet/machnet-config-version.cmake
	cd ffi/include && for header in *.h; do rm -f "$(DESTDIR)$(PREFIX)/include/$$header"; done

clean:
	cargo clean
