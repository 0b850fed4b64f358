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

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,test]'
	touch $@

# The manual as a site that needs no network: build/manual/index.html
manual: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet -f configs/mkdocs.yml

clean:
	rm -rf $(VENV) build
