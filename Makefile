# The two commands of the README, and the same for everyday work. `make` alone lists them.
.DEFAULT_GOAL := help
BIN := .venv/bin
READY := .venv/.woolly-ready
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

# The environment is made once, and again when the lock, the project's metadata or the recipe itself changes.
$(READY): requirements.lock pyproject.toml deploy/bootstrap.sh
	@deploy/bootstrap.sh
	@touch $@

.PHONY: env
env: $(READY) ## make .venv from requirements.lock

.PHONY: demo
demo: $(READY) ## everything on loopback and one streamed job; ARGS=--once exits after the job
	@exec $(BIN)/woolly demo $(ARGS)

# Half of the tests wait and half compute, so two processes take little more than half the time. Options, for example a
# selection, get one process, which is there sooner.
.PHONY: test
test: lint ## lint, then all tests but the slow ones; ARGS="-k name" passes options to pytest
	$(BIN)/pytest -m "not slow" $(or $(ARGS),-n 2)

.PHONY: test-slow
test-slow: $(READY) ## the tests that take minutes
	$(BIN)/pytest -m slow $(ARGS)

.PHONY: chaos
chaos: $(READY) ## 200 seeded schedules of faults, in less than 20 minutes; ARGS="--seed 17" runs and tells one of them
	PYTHONPATH=tests:. $(BIN)/python -m chaos $(ARGS)

SECONDS := 60

.PHONY: fuzz
fuzz: $(READY) ## model files under a coverage-guided fuzzer, and the HTTP API with more examples; SECONDS=600
	$(BIN)/python tests/fuzz/fuzz_gguf.py .fuzz/corpus -max_total_time=$(SECONDS) -artifact_prefix=.fuzz/
	WOOLLY_FUZZ_EXAMPLES=$$(( 2 * $(SECONDS) )) $(BIN)/pytest --timeout=0 tests/api/test_described.py

MODELS := 1b
TYPES := Q4_K_M

.PHONY: bench
bench: $(READY) ## Woolly beside llama.cpp, and the bars; MODELS="1b 7b" TYPES="Q4_K_M Q4_0" ARGS="--peer-python PYTHON"
	$(BIN)/python loadtest/engine/compare.py --models "$(MODELS)" --types "$(TYPES)" $(ARGS)

.PHONY: bench-kernels
bench-kernels: $(READY) ## every kernel beside NumPy, a plain loop and the limits; ARGS="--types Q4_K --only matmul"
	$(BIN)/python loadtest/kernels/kernels.py $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Peers compile for minutes, and few people draw plots: `bench` and `peers` are installed by whoever wants them.
LOCKED_EXTRAS := api worker redis dev

.PHONY: lock
lock: $(READY) ## resolve requirements.lock anew; UPGRADE=--upgrade moves to the newest versions
	@uv=$$(for u in .uv/bin/uv .uv/venv/bin/uv uv; do $$u --version >/dev/null 2>&1 && echo $$u && break; done); \
	$$uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 $(LOCKED_EXTRAS:%=--extra %) $(UPGRADE) pyproject.toml -o requirements.lock

.PHONY: readme
readme: $(READY) ## write the parts of README.md that can be made: settings, and what the demo model says
	$(BIN)/python docs/readme.py

.PHONY: clean
clean: ## remove the environment, caches and build outputs
	rm -rf .venv .uv .fuzz build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
