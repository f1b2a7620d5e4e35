# The commands of this project. `make help` lists them.

PYTHON ?= python3
PORT   ?= 8000
WORKERS ?= 2
TESTS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
SITE   := _build/html

# The local copies of corpora, for the book as for the tests, unless the caller has chosen a folder.
ifndef ARBOOK_DATA
ifneq ($(wildcard ../shared/data),)
export ARBOOK_DATA := $(abspath ../shared/data)
endif
endif

# Kernels of this environment come before those that the user has installed elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1
# Sphinx looks up every name on the pages; a lazy library that is asked for one says a line about each of its parts.
export TRANSFORMERS_VERBOSITY := error
# Where the notebooks' extension lives, for the commands that run outside Sphinx.
EXTENSIONS := PYTHONPATH=_ext/nbdev-book

# A book is as old as its oldest page: everything that can change one.
SOURCES := _config.yml _toc.yml settings.ini references.bib $(filter-out README.md CHANGELOG.md,$(wildcard *.md)) \
           $(shell find nbs api arbook runs _ext _static -type f -not -path '*/.*' -not -path '*/__pycache__/*' 2>/dev/null)

.DEFAULT_GOAL := book
.DELETE_ON_ERROR:
.PHONY: help book serve lab test export chapter budgets lint bench clean

help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# The stamp is written last: an interrupted installation or a failed build never looks finished.
$(VENV)/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "arbook needs Python 3.11 or newer, this is " \
	  + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	@$(PYTHON) _ext/install.py $(VENV)
	@touch $@

$(SITE)/.complete: $(VENV)/.installed $(SOURCES)
	@$(BIN)/nbdev_export
	$(EXTENSIONS) $(BIN)/python -m nbdev_book.execute
	rm -rf $(SITE) _build/.doctrees  # pages that Sphinx does not read again would hide their warnings
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@touch $@

book: $(SITE)/.complete  ## build the book (run what changed, then make the pages)
	@echo "file://$(abspath $(SITE))/index.html"

serve: book  ## show the book at http://127.0.0.1:8000 (choose another with PORT=)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(PORT)

lab: $(VENV)/.installed  ## open the notebooks in JupyterLab
	cd nbs && ../$(BIN)/jupyter lab

# Each worker computes on one thread: two that want all cores wait for each other.
test: book  ## run all tests, those of the built pages in Chromium included (WORKERS=2 at a time)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	  $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

export: $(VENV)/.installed  ## write the library from the notebooks
	@$(EXTENSIONS) $(BIN)/python -m nbdev_book.sync --write

chapter: $(VENV)/.installed  ## begin a chapter: make chapter NAME=diffusion TITLE="Diffusion"
	@$(BIN)/python _ext/chapter.py $(NAME) $(if $(TITLE),"$(TITLE)")
	@$(BIN)/nbdev_export
	@echo "Write what is marked TO WRITE; make test TESTS=tests/test_house.py names what is left."

budgets: book  ## what each page asks of its reader, and how much it may
	PYTHONPATH=_ext:_ext/nbdev-book $(BIN)/python -m budgets

lint: $(VENV)/.installed  ## check style, spelling, types, and that notebooks and library agree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/codespell *.md *.yml api arbook bench nbs tests _ext .github
	$(BIN)/mypy
	$(EXTENSIONS) $(BIN)/python -m nbdev_book.sync

bench: $(VENV)/.installed  ## measure the library against others
	@set -e; for script in bench/[!_]*.py; do echo "== $$script"; $(BIN)/python -m bench.$$(basename $$script .py); done

clean:  ## remove what a build writes (not .venv)
	rm -rf _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
