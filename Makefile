# The commands of this project. Each installs what it is missing (scripts/setup) and can be run again at any time.
.PHONY: demo test check test-asan bench peers clean

VENV := $(or $(FERRYFS_VENV),.venv)
PEERS := $(or $(FERRYFS_CACHE),$(HOME)/.cache/ferryfs)/peers
PROCESSES := $(or $(FERRYFS_TEST_PROCESSES),2)
BENCH_FLAGS := --shared-dir={share} --sandbox=none

# A Linux guest in QEMU uses a directory of this host through ferryfsd.
demo:
	@scripts/setup demo
	@$(VENV)/bin/ferryfs demo $(ARGS)

# Lint, types, stubs, and every suite; FERRYFS_TEST_PROCESSES says how many processes run the tests.
# Where a reference daemon is not to be had, its tests are skipped, which is a failure under CI=true only.
test:
	@scripts/setup test
	-@scripts/peers
	@PATH="$(abspath $(VENV)/bin):$$PATH" scripts/check
	@$(VENV)/bin/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

# Lint, types and stubs only.
check:
	@scripts/setup test
	@PATH="$(abspath $(VENV)/bin):$$PATH" scripts/check

# The suites that reach the compiled core, with address and undefined-behaviour sanitizers.
test-asan:
	@scripts/setup asan
	@scripts/asan $(ARGS)

# ferryfsd beside the reference daemons: every row of benchmarks/RESULTS.md, into benchmarks/latest.{json,md,html}. ARGS
# goes to `ferryfs bench`: ARGS=--quick is a first look, ARGS="--set micro" one part.
bench:
	@scripts/setup demo
	@scripts/peers
	@PATH="$(abspath $(VENV)/bin):$$PATH" ferryfs bench --set all \
	  --json benchmarks/latest.json --markdown benchmarks/latest.md --html benchmarks/latest.html \
	  --daemon "ferryfsd $(BENCH_FLAGS)" \
	  --against "virtiofsd-1.14.0=$(PEERS)/virtiofsd-1.14.0/virtiofsd $(BENCH_FLAGS)" \
	  --against "virtiofsd-1.13.2=$(PEERS)/virtiofsd-1.13.2/virtiofsd $(BENCH_FLAGS)" $(ARGS)

# The reference daemons that tests and benchmarks compare with.
peers:
	@scripts/peers

clean:
	rm -rf build .venv .venv-asan .mypy_cache .pytest_cache .ruff_cache .hypothesis
