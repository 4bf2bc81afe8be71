# `make demo` and `make test` work from a fresh clone; everything lives in .venv and runs/.
PYTHON ?= python3
BIN := .venv/bin

# Container images often set this variable. Without bytecode, each process that these targets start would compile
# PyTorch, Transformers and vLLM again, which doubles its start-up time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo unit test coverage lint types docs constraints clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.installed  ## make .venv, with the cpu or gpu extra depending on the hardware (EXTRA=cpu|gpu overrides)

.venv/.installed: pyproject.toml scripts/install.sh $(wildcard requirements/*.txt)
	PYTHON="$(PYTHON)" EXTRA="$(EXTRA)" sh scripts/install.sh
	@touch $@

demo: install  ## tiny model, SFT, real vLLM server, online PPO, evaluation, report
	$(BIN)/python -m trainer demo $(ARGS)

unit: install  ## tests without a server and without training, in about three minutes
	$(BIN)/python -m pytest tests/unit -m "not slow" --hypothesis-profile=quick -n auto --maxprocesses 4 $(ARGS)

test: install  ## every test, real vLLM servers included; three processes, since tests wait for servers; each file stays in one
	@# In the folders' order, the long tests of tests/chaos and tests/integration first: none of them is left to the end alone.
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: install  ## line and branch coverage of regime_w, which must be 100 %
	$(BIN)/python -m pytest -q tests/unit/regime_w --cov=regime_w --cov-branch --cov-report=term-missing --cov-fail-under=100

lint: install types  ## ruff, mypy --strict and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

docs: install  ## the documentation as pages in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

constraints: install  ## resolve the pins of both extras again after a change in pyproject.toml
	sh scripts/constraints.sh
