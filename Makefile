# The commands of the README; each makes its own virtual environment first.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test check manual clean

demo: $(INSTALLED)
	$(VENV)/bin/chexfract-node demo

test: $(INSTALLED)
	$(VENV)/bin/pytest -n 2 --dist loadfile

check: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m tests.words

bench: $(INSTALLED)
	$(VENV)/bin/python -m tests.bench

soak: $(INSTALLED)
	$(VENV)/bin/python -m tests.soak

# pip would name conflicts of packages where only Python is too old.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$$($(PYTHON) --version 2>&1): Python 3.11 to 3.13 is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,test]'
	touch $@

# The manual as a site that needs no network: build/manual/index.html
manual: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet -f configs/mkdocs.yml

clean:
	rm -rf $(VENV) build
