# Everything a developer starts by hand; `make` lists it. GNU make and a POSIX shell are enough.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished

# Processes that run tests, each with one thread: small tensors gain nothing from more.
WORKERS ?= 2

# The stamp holds the folder the environment was made for: scripts of a moved one do not start.
ifneq ($(shell $(BIN)/python -c "" 2>/dev/null && cat $(STAMP) 2>/dev/null),$(CURDIR))
STALE := stale
endif

# What tables are made of: smoke (minutes, synthetic), lspet or lspet_gpu (photographs), paper. Every table names it.
PROFILE ?= smoke

# Seeds that every row is trained with.
SEEDS ?= 0

# The paper's tables and figures: folders of conf/experiment and of experiments/.
TARGETS := table2 table3 table4 table5 table6 table7 figure5 figure6 figure7_8
empty :=
comma := ,
listed = $(subst $(empty) ,$(comma),$(strip $(1)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow hard-use versions versions-oldest versions-newest lint format clean stale tables study reproduce-all reproduce-figure7 reproduce-figure8 \
    table-costs bench runs-page docs rooms web notebooks

help: ## list the targets
	@printf 'usage: make TARGET [NAME=value ...]\n\n'
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1 \2/p' $(MAKEFILE_LIST) | \
	    while read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## make or update .venv (PYTHON=/path/to/python chooses the interpreter)

demo: $(STAMP) ## train the small example on a CPU (ARGS="epochs=2 ..." changes its settings)
	$(BIN)/pnfs train experiment=demo $(ARGS)

test: $(STAMP) ## run the tests, but for the slow ones (ARGS goes to pytest; WORKERS=n)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)

test-slow: $(STAMP) ## run the slow tests: whole trainings, kills and resumes, launchers, notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

hard-use: $(STAMP) ## break things on purpose: kills, damage, full disks, hostile files; writes experiments/hard_use/table.md
	mkdir -p experiments/hard_use
	PNFS_HARD_USE=experiments/hard_use/table.md OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hard_use $(ARGS)

versions: versions-oldest versions-newest ## run the tests with the oldest declared dependencies, and with the newest (gigabytes of downloads)

# uv resolves to the lowest versions, pip installs them: it knows where this machine gets its files.
versions-oldest: $(STAMP)
	mkdir -p build
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml --output-file build/oldest.txt
	$(call tested,oldest,--requirement build/oldest.txt)

versions-newest: $(STAMP)
	$(call tested,newest,--upgrade)

define tested
$(BIN)/python -m venv --clear build/$(1)
build/$(1)/bin/python -m pip install --disable-pip-version-check --quiet $(2) --editable '.[dev]'
OMP_NUM_THREADS=1 build/$(1)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)
endef

reproduce-all: $(STAMP) ## train and make all tables and figures (also reproduce-table2 ... table7, reproduce-figure5 ... figure8)
	$(call reproduce,[$(call listed,$(TARGETS:%=%/*))],[$(call listed,$(TARGETS))])

tables: $(STAMP) ## make all tables and figures from the runs that there are (PROFILE=paper|lspet|lspet_gpu|smoke)
	$(BIN)/pnfs tables 'target=[$(call listed,$(TARGETS))]' profile=$(PROFILE) $(ARGS)

study: $(STAMP) ## make the pages about the study on LSPET from the records kept in experiments/
	$(BIN)/pnfs tables target=study profile=lspet kept=true
	$(BIN)/pnfs tables target=study profile=lspet_gpu kept=true
	$(BIN)/pnfs tables target=study_long profile=lspet kept=true
	$(BIN)/pnfs tables target=study_networks profile=lspet kept=true
	$(BIN)/pnfs tables target=study_networks profile=lspet_gpu kept=true

# Figures 7 and 8 are one set of pictures.
reproduce-figure7 reproduce-figure8: reproduce-figure7_8

reproduce-%: $(STAMP)
	$(call reproduce,$*/*,$*)

# A run that fails stops no other, the tables say why it is missing, and the exit status tells.
define reproduce
@status=0; set -x; \
$(BIN)/pnfs train --multirun 'experiment=glob($(1))' profile=$(PROFILE) 'seed=$(SEEDS)' $(ARGS) || status=$$?; \
$(BIN)/pnfs tables 'target=$(2)' profile=$(PROFILE) $(ARGS) || status=$$?; \
exit $$status
endef

table-costs: $(STAMP) ## parameters and MACs of every configuration in the paper's tables, beside the paper's
	$(BIN)/python tools/table_costs.py $(ARGS)

bench: $(STAMP) ## measure training steps, inference, data and evaluation into runs/bench/ (half an hour or more)
	$(BIN)/python -m benchmarks training inference data evaluation $(ARGS)

runs-page: $(STAMP) ## one HTML page about all runs: runs/index.html
	$(BIN)/pnfs runs html=runs/index.html $(ARGS)

web: $(STAMP) ## build the page that runs an exported model in the browser: web/dist (MODEL=model.onnx)
	@[ -n '$(MODEL)' ] || { echo 'web: name a file that `pnfs export` wrote: make web MODEL=model.onnx' >&2; exit 1; }
	$(BIN)/python web/build.py '$(MODEL)'

docs: $(STAMP) ## build the documentation into build/site, links checked
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[docs]'
	$(BIN)/mkdocs build

rooms: $(STAMP) ## draw who imports whom in src/pnfs: docs/rooms.md, docs/rooms.svg
	$(BIN)/python tools/rooms.py

notebooks: $(STAMP) ## run the notebooks and keep what they show
	PYTHONWARNINGS=ignore $(BIN)/jupyter execute --inplace notebooks/*.ipynb

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP) ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .

clean: ## delete caches and build outputs; .venv, data/ and runs/ stay
	rm -rf build dist web/dist web/node_modules .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name $(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is kept if its first installation was completed, and in this folder.
$(STAMP): pyproject.toml $(STALE)
	@if [ -e $(UNFINISHED) ] || { [ -e $@ ] && [ "$$(cat $@)" != '$(CURDIR)' ]; } \
	    || ! $(BIN)/python -m pip show --quiet pnfs 2> /dev/null; then \
	    $(find_python); \
	    echo "setup: making $(VENV) with $$python ($$found)"; \
	    "$$python" -m venv --clear $(VENV) || exit 1; \
	    touch $(UNFINISHED); \
	fi
	@echo 'setup: installing pnfs and the tools for development into $(VENV)'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@rm -f $(UNFINISHED)
	@printf '%s\n' '$(CURDIR)' > $@
	@echo 'setup: done'

# Sets $python to an interpreter that is new enough and can make environments, or stops.
define find_python
python=; seen=; \
for candidate in $(or $(PYTHON),python3.12 python3.11 python3 python3.13 python); do \
    if ! found=$$("$$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>&1); then \
        [ -z '$(PYTHON)' ] || seen="; $$candidate does not start: $$found"; \
    elif ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
        seen="$$seen; $$candidate is Python $$found"; \
    elif ! "$$candidate" -c 'import ensurepip, venv' 2> /dev/null; then \
        seen="$$seen; $$candidate is Python $$found without venv (install python3-venv or the like)"; \
    else \
        python=$$candidate; break; \
    fi; \
done; \
if [ -z "$$python" ]; then \
    seen=$${seen#; }; \
    echo "setup: pnfs needs Python 3.11 or newer; found: $${seen:-no Python at all}" >&2; \
    echo 'setup: install one, or name it: make setup PYTHON=/path/to/python' >&2; \
    exit 1; \
fi
endef
