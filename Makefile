# What CONTRIBUTING.md explains; `make test PYTHON=...` takes another environment than .venv.
PYTHON ?= $(firstword $(wildcard .venv/bin/python) python3)

.PHONY: test test-fast lint types docs
test:  # everything, as in .ci/run
	$(PYTHON) -m pytest -n auto --dist loadfile -rs
test-fast:  # what takes under two seconds each, in under 90 s
	$(PYTHON) -m pytest -n auto --dist loadfile -m "not slow"
lint:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
types:
	$(PYTHON) .ci/types
docs:  # links, pictures and examples
	$(PYTHON) -m pytest tests/core/test_docs.py
