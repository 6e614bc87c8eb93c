# Everything runs in .venv, which `make setup` makes; HEADRACE_PYTHON names another Python (3.10 to 3.12).
PY := .venv/bin/python
SETUP := .venv/.headrace-setup
# Files of tests that run side by side.
TESTERS ?= 2
PYTEST := $(PY) -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-long lint bench peers horovod clean

setup: $(SETUP)

$(SETUP): setup.cfg pyproject.toml .ci/setup
	@bash .ci/setup
	@touch $@

demo: $(SETUP)
	.venv/bin/headrace run configs/demo.yaml

test: $(SETUP) lint
	$(PYTEST) -m "not long"

test-long: $(SETUP)
	$(PYTEST)

lint: $(SETUP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: $(SETUP)
	$(PY) -m benchmarks all

# Named peers for the benchmarks, in an environment of their own (.venv-peers).
peers:
	@bash .ci/peers

# Horovod, built from source into .venv, for strategy "horovod"; it does nothing where that is done.
horovod: $(SETUP)
	@bash .ci/horovod

clean:
	rm -rf .venv .venv-peers build dist *.egg-info runs .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
