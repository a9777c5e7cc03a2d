# Two commands for a fresh machine: `make demo` and `make test`. `make help` lists the rest.

.DEFAULT_GOAL := help
.PHONY: help fuzz demo picture manuals test test-rest test-all check docs develop packages bench compare compare-check growth wheel wheels deb clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# One profile for all but wheels: dependencies are compiled once for the tests, the lints and the Python module.
PROFILE := dev-fast
# What `maturin develop` says through pip is of no use here.
export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

define CHECK
cargo fmt --all --check
cargo clippy --profile $(PROFILE) --workspace --all-targets -- -D warnings
cargo clippy --profile $(PROFILE) --workspace --all-targets --features python -- -D warnings
$(BIN)/ruff check
$(BIN)/ruff format --check
$(BIN)/mypy
$(BIN)/python -m mypy.stubtest ocifast._core --mypy-config-file pyproject.toml
$(BIN)/python -m pytest -q tests/test_floors.py
$(BIN)/zizmor --offline --quiet --no-progress .
$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/fault.yml .github/ISSUE_TEMPLATE/wish.yml
$(BIN)/python -m tools.recipe
endef

# What a machine lacks on which nobody is root and none of Debian's packages are there, and what takes long.
REST := root or tools or slow

# Tests that run side by side.
PROCESSES ?= auto

define TEST
cargo test --profile $(PROFILE) --workspace --quiet --lib
$(BIN)/python -m pytest -q --numprocesses=$(PROCESSES) --durations=10 -m "not ($(REST))"
endef

define TEST_REST
cargo test --profile $(PROFILE) --workspace --quiet --test '*'
cargo test --profile $(PROFILE) --workspace --quiet --doc
$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --durations=20 -m "$(REST)"
endef

define HELP
make demo      makes a virtual environment, builds, and compiles a real image to a root filesystem
make picture   draws docs/progress.svg from a real run (wants tmux), and docs/chart.svg from benches/results.json
make manuals   writes the manual pages and completion files of ocifast.data anew
make test      makes a virtual environment, builds, and runs the tests that need neither root nor packages
make test-all  all tests, as root, with the packages that they need
make test-rest what make test leaves out
make check     formats, lints, types and floors, changing nothing
make develop   builds the package into $(VENV)
make packages  installs the Debian packages that the tests run (as root)
make fuzz      fuzzes each target for FUZZ_SECONDS (60): docs/fuzzing.md
make bench     benchmarks; CORPUS=oci:DIR:TAG names the image that is compared
make compare   what each piece of work takes us and other tools, on CORPUS and made-up images; writes docs/performance.md
make compare-check   fails when a ratio of two of these images fell by more than 15% against benches/results.json
make growth    what 1 to 10 GiB and 0.1 to 2 million entries take; draws docs/growth.svg
make docs      builds the site of the documents into site/, strictly
make wheel     builds a release wheel into dist/
make wheels    builds a wheel for older systems, and the source package; checks, installs and tries both
make deb       makes a Debian package into dist/, for the version of Python that Debian has here
make clean     removes all that was made here

CI runs .ci/run, which is make packages, make check, make docs, make test and make test-rest.

make check:
$(CHECK)

make test:
$(TEST)

make test-rest:
$(TEST_REST)
endef

help:
	@: $(info $(HELP))

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install 'pip>=25.1'
	$(BIN)/python -m pip install --group dev
	touch $@

# What not every target wants is installed by the first that does.
$(VENV)/.lint: $(VENV)/.installed
	$(BIN)/python -m pip install --group lint
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --group docs
	touch $@

$(VENV)/.release: $(VENV)/.installed
	$(BIN)/python -m pip install --group release
	touch $@

develop: $(VENV)/.installed
	$(BIN)/maturin develop --quiet --profile $(PROFILE)

packages:
	tests/install-packages

demo: develop
	$(BIN)/python tools/demo.py

picture: develop
	$(BIN)/python tools/picture.py
	$(BIN)/python -m tools.chart

manuals: develop
	$(BIN)/python tools/manuals.py

test: develop
	$(TEST)
	@echo "Left out: tests that need root, Debian packages (tests/apt-packages.txt), or long. make test-all runs them."

test-rest: develop
	$(TEST_REST)

test-all: packages develop
	$(TEST)
	$(TEST_REST)

check: develop $(VENV)/.lint $(VENV)/.docs
	$(CHECK)

fuzz:
	cargo test --profile $(PROFILE) --workspace --quiet --test fuzz_corpus -- --ignored --exact long --nocapture

bench: $(VENV)/.installed
	$(BIN)/maturin develop --quiet --release
	$(BIN)/python -m pytest benches/bench_*.py --benchmark-only --benchmark-columns=min,median,rounds
	$(BIN)/python -m benches.compare $(CORPUS) --workloads corpus

compare: packages $(VENV)/.installed
	@test -n "$(CORPUS)" || { echo "say which image: make compare CORPUS=oci:DIR:TAG"; exit 2; }
	$(BIN)/maturin develop --quiet --release
	$(BIN)/python -m benches.compare $(CORPUS) --write

# Bounded: two images that are made in half a minute, the work that varies least, and the two tools that are everywhere.
compare-check: packages $(VENV)/.installed
	$(BIN)/maturin develop --quiet --release
	$(BIN)/python -m benches.compare --workloads sixty,files --groups tar,dir,erofs,layout-dir,layout-erofs,layout-ext4 \
		--peers igzip,tar --runs 5 --baseline benches/results.json

growth: $(VENV)/.installed
	$(BIN)/maturin develop --quiet --release
	$(BIN)/python -m benches.growth --write

docs: develop $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict --quiet

# What is handed on says nothing of the machine that built it: without this the core holds paths of the registry's crates.
wheel wheels deb: export RUSTFLAGS := $(RUSTFLAGS) --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo

wheel: $(VENV)/.installed
	$(BIN)/maturin build --release --out dist

# zig links against the C library of an older system, whatever this one has.
wheels: $(VENV)/.release
	rm -rf dist
	PATH="$(CURDIR)/$(BIN):$$PATH" maturin build --release --locked --zig --compatibility manylinux_2_28 --out dist
	$(BIN)/maturin sdist --out dist
	$(BIN)/python -m tools.wheels check dist/*.whl
	$(BIN)/python -m tools.wheels try dist/*.whl dist/*.tar.gz

deb: $(VENV)/.installed
	rm -rf dist/debian
	$(BIN)/maturin build --release --locked --out dist/debian
	$(BIN)/python -m tools.deb dist/debian/*.whl dist

clean:
	rm -rf $(VENV) target dist site .bench .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python tests benches tools -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/ocifast/_core*.so
