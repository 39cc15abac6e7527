# make demo and make test set up whatever they need, on a machine that has Python 3.11 or newer,
# make and a package registry. Everything lands in .venv and .uv. See docs/installing.md.
#
#   PYTHON=...           the interpreter to build .venv with
#   EXTRA=cpu|gpu        which engine; found out by asking nvidia-smi
#   PIP_FIND_LINKS=...   folders of local wheels (UV_FIND_LINKS goes first)
#   MEMEDIT_DATA=...     the benchmark data; ../shared/data where that is there

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

comma := ,
space := $(subst ,, )
BIN := .venv/bin
UV := .uv/bin/uv

ifndef EXTRA
EXTRA := $(if $(shell nvidia-smi -L 2>/dev/null | grep -m1 GPU),gpu,cpu)
endif

# A torch wheel at hand spares the download and may exist for one Python only. uv does not read
# pip's variables or files; a CPU wheel is of no use to the gpu extra.
ifneq ($(UV_FIND_LINKS),)
FIND_LINKS := $(UV_FIND_LINKS)
else
ifeq ($(PIP_FIND_LINKS),)
PIP_FIND_LINKS := $(shell python3 -m pip config get global.find-links 2>/dev/null)
endif
FIND_LINKS := $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
ifeq ($(EXTRA),cpu)
TORCH_WHEELS := $(wildcard $(addsuffix /torch-*+cpu-*.whl,$(patsubst file://%,%,$(subst $(comma),$(space),$(FIND_LINKS)))))
endif
TORCH_PYTHONS := $(strip $(foreach v,11 12 13 14,$(if $(findstring -cp3$(v)-cp3$(v)-,$(TORCH_WHEELS)),3.$(v))))

ifeq ($(UV_DEFAULT_INDEX)$(UV_INDEX_URL),)
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
endif
ifeq ($(EXTRA),cpu)
ifneq ($(FIND_LINKS),)
export UV_FIND_LINKS := $(FIND_LINKS)
endif
ifeq ($(TORCH_WHEELS)$(UV_TORCH_BACKEND),)
export UV_TORCH_BACKEND := cpu
endif
PINS := -c constraints/cpu.txt -c constraints/dev.txt --excludes constraints/triton.txt
else
PINS := --overrides constraints/gpu.txt
endif

ifeq ($(MEMEDIT_DATA),)
ifneq ($(wildcard ../shared/data/.),)
export MEMEDIT_DATA := $(CURDIR)/../shared/data
endif
endif

STAMP := .venv/.memedit-$(EXTRA)

.PHONY: help demo test test-all setup lint format docs pins clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo test test-all: export HF_HUB_OFFLINE := 1

demo: setup ## teach a served model eight facts, and show what changed and what did not
	$(BIN)/memedit demo

test: lint ## the checks, and every test that takes seconds
	$(BIN)/python -m pytest -m "not slow" --durations=15

test-all: lint ## the checks, and every test
	$(BIN)/python -m pytest --durations=30

lint: setup ## style, types and import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources as lint wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup ## docs/cli.md, from the commands themselves
	$(BIN)/python -m typer memedit.cli.app utils docs --name memedit --output docs/cli.md

setup: $(STAMP) ## .venv with memedit and everything it needs; nothing to do where it is there

$(STAMP): pyproject.toml $(wildcard constraints/*.txt) | $(UV)
	@echo "setting up .venv ($(EXTRA)) ..."
	$(BIN)/python -c '' 2>/dev/null || $(UV) venv --quiet --clear --python .uv/bin/python .venv
	$(UV) pip install --python $(BIN)/python $(PINS) -e '.[$(EXTRA),models,langchain,editors,dev]'
	rm -f .venv/.memedit-*
	touch $@

# The interpreter: PYTHON, else the first that is new enough, has a wheel of torch at hand where
# there are wheels at hand, and can make an environment (Debian ships that separately).
$(UV):
	@wanted="$(or $(TORCH_PYTHONS),3.11 3.12 3.13 3.14)"; poor=; found=; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3 $(patsubst %,python%,$(TORCH_PYTHONS)) \
	    python3.13 python3.12 python3.11 python3.14 python); do \
	  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  case " $$wanted " in *" $$version "*) ;; *) continue ;; esac; \
	  if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
	  poor="$$poor $$python"; \
	done; \
	if [ -z "$$found" ] && [ -n "$$poor" ]; then \
	  echo "memedit:$$poor cannot make virtual environments: on Debian and Ubuntu install" \
	    "python3-venv (apt-get install python3-venv), or name another with make PYTHON=..." >&2; exit 1; \
	elif [ -z "$$found" ]; then \
	  echo "memedit: needs Python $$wanted and found none as" \
	    "$(if $(PYTHON),$(PYTHON),python3 or python3.13 to python3.11);" \
	    "install one, or name it with make PYTHON=/path/to/python$(if $(TORCH_PYTHONS), (the torch wheel in $(FIND_LINKS) is for $(TORCH_PYTHONS)))" \
	    >&2; exit 1; \
	fi; \
	echo "setting up .uv with $$found ..."; \
	"$$found" -m venv --clear .uv; \
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	test -x $(UV)

RESOLVE = $(UV) pip compile --quiet --upgrade --universal --no-annotate --python-version 3.11 \
  --custom-compile-command "make pins" --excludes constraints/triton.txt pyproject.toml constraints/linux.txt
ELSEWHERE := never|== '(win32|emscripten|s390x|ppc64le)'$$|!= 'x86_64'|^(nvidia|cuda)-

pins: $(UV) ## resolve anew the versions that a CPU installation takes
	$(RESOLVE) --extra cpu --extra models --extra langchain --extra editors -o constraints/cpu.txt
	$(RESOLVE) --extra dev -c constraints/cpu.txt -o constraints/dev.txt
	sed -i -E "/$(ELSEWHERE)/d" constraints/cpu.txt constraints/dev.txt

clean: ## remove what the other targets made
	rm -rf .venv .uv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
