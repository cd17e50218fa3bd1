# What CONTRIBUTING.md explains; `make test PYTHON=...` takes another environment than .venv.
PYTHON ?= $(firstword $(wildcard .venv/bin/python) python3)
FAST = core scores discriminators proofs rendering generators formats testing

.PHONY: test test-fast lint types docs gallery examples signatures results
test:  # everything, as in .ci/run
	$(PYTHON) -m pytest -n auto --dist worksteal -rs
test-fast:  # the mathematics and the parts, without the tests that are marked slow: 83 s on two cores
	$(PYTHON) -m pytest -n auto --dist worksteal -m "not slow" $(addprefix tests/,$(FAST))
lint:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
types:
	$(PYTHON) .ci/types
docs:  # the site, in build/site/html; needs the extra docs
	PYTHONPATH=. $(PYTHON) docs/site/lay_out.py build/site
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict -f build/site/mkdocs.yml
gallery:  # the films of docs/gallery.md and of the README, some minutes each on one core; goes on where it was stopped
	$(PYTHON) -m asdkit sweep docs/gallery.txt --config gs3d --run.root build/gallery
	PYTHONPATH=. $(PYTHON) docs/site/gallery.py build/gallery/gs3d
examples:  # what the documents name and link to is there, and their commands and code run
	$(PYTHON) -m pytest tests/commands/test_documents.py tests/commands/test_add_your_own.py
signatures:  # the table that help and errors are answered from and the page of the methods, after a change of an option
	PYTHONPATH=tests $(PYTHON) -m support.signatures
results:  # what README and docs/results.md say of docs/paper/results.json, which asdkit reproduce --full --out docs/paper leaves
	PYTHONPATH=tests $(PYTHON) -m support.results
