# The front door: `make help` lists what there is. Meson and Ninja do the building.

PREFIX ?= /usr/local
DESTDIR ?=
BUILD ?= build
RELEASE ?= build-release
SETUP ?=
ARGS ?=

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := build
.PHONY: build release dev demo test quick lint format bench soak fuzz sanitize torture install clean help bootstrap

# Installs what is missing, and costs a moment when nothing is.
bootstrap:
	@tools/bootstrap

$(BUILD)/build.ninja: | bootstrap
	@meson setup "$(BUILD)" --prefix "$(PREFIX)" $(SETUP)

# Without the tests, which are twice as much to compile: they are built by who runs them.
build: bootstrap $(BUILD)/build.ninja ## build the program: build/gantry
	@ninja -C "$(BUILD)" gantry

# Optimised over all of it at once, which no build for tests could wait for.
$(RELEASE)/build.ninja: | bootstrap
	@meson setup "$(RELEASE)" --prefix "$(PREFIX)" -Db_lto=true -Dtests=false $(SETUP)

release: bootstrap $(RELEASE)/build.ninja ## build what is installed and measured: build-release/gantry
	@ninja -C "$(RELEASE)"

dev: build ## run a dev server with the example agents (ARGS: more options for `gantry dev`)
	@"$(BUILD)/gantry" dev $(ARGS) $(patsubst %/agent.yaml,%,$(wildcard examples/*/agent.yaml))

demo: build ## show it: the example agents at work, a version changed, a webhook, what it cost
	@GANTRY="$(abspath $(BUILD)/gantry)" tools/demo $(ARGS)

test: bootstrap ## run every test (ARGS: --quick, or names to choose tests by)
	@tools/run-tests $(ARGS)

quick: bootstrap ## run the unit and end-to-end tests on the plain build only
	@tools/run-tests --quick $(ARGS)

lint: ## check format, layers, banned functions, warnings; clang-tidy, cppcheck
	@tools/bootstrap --lint
	@tools/lint $(ARGS)

format: ## rewrite src/ and tests/ in the house format
	@tools/bootstrap --lint
	@tools/lint --fix

bench: ## measure speed (installs nginx and wrk to compare with; queues of others where they are)
	@tools/bootstrap --bench
	@$(MAKE) build release
	@ninja -C "$(BUILD)"
	@GANTRY="$(abspath $(RELEASE)/gantry)" GANTRY_BENCHES="$(abspath $(BUILD)/tests/unit)" tools/bench $(ARGS)

soak: build ## load with faults, kills and a slow disk for 15 minutes: nothing may be lost, and memory stay flat
	@GANTRY="$(abspath $(BUILD)/gantry)" python3 tests/bench/soak.py $(ARGS)

fuzz: ## fuzz each target for GANTRY_FUZZ_SECONDS (default here: 60)
	@tools/bootstrap --fuzz
	@GANTRY_FUZZ_SECONDS=$${GANTRY_FUZZ_SECONDS:-60} tools/run-tests --only fuzz $(ARGS)

sanitize: bootstrap ## run the tests under ASan and UBSan, then under TSan
	@tools/run-tests --only asan,tsan $(ARGS)

torture: build ## kill it, cut its power, break its disk, live through years, at length (ARGS: of tests/torture/kill.py)
	@ninja -C "$(BUILD)" tests/unit/test_power_loss tests/unit/test_disk_faults tests/unit/test_sim_control tests/unit/test_sim_queue
	@"$(BUILD)/tests/unit/test_power_loss" 20000
	@"$(BUILD)/tests/unit/test_disk_faults" all
	@"$(BUILD)/tests/unit/test_sim_control" 90 10
	@"$(BUILD)/tests/unit/test_sim_queue" 20001-220000
	@GANTRY="$(abspath $(BUILD)/gantry)" tests/torture/kill.py $(ARGS)

install: release ## install under PREFIX (/usr/local), below DESTDIR if given
	@meson configure "$(RELEASE)" -Dprefix="$(PREFIX)"
	@DESTDIR="$(DESTDIR)" meson install -C "$(RELEASE)"

clean: ## remove what building and testing made
	rm -rf "$(BUILD)" "$(RELEASE)" build-asan build-tsan build-fuzz build-lint-gcc build-lint-clang

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
