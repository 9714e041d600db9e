# `make run` and `make test` do all their own set-up on a bare Debian 12 with git, make and python3.
PYTHON ?= python3
VENV   := .venv
RUN    := $(CURDIR)/run
PREFIX ?= /usr/local
DESTDIR ?=
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SYSTEM := curl faketime strace
# plugind runs nothing that others may write, and a umask of 002 leaves a clone so.
SAFE   := chmod g-w,o-w . && chmod -R g-w,o-w plugins

.PHONY: run demo test check crash soak bench install clean digests help

help:                ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: short $(VENV)/ready $(RUN)/plugind.yaml  ## Run the daemon in the foreground with config/catalog.yaml
	@$(SAFE)
	@sh config/announce.sh $(RUN)/control.sock $(VENV)/bin/pluginctl $$$$ & exec $(VENV)/bin/plugind --config $(RUN)/plugind.yaml

demo: $(VENV)/ready  ## Tell the whole story once, on a copy, without a second terminal
	@$(SAFE)
	@sh docs/demo.sh $(VENV)/bin

test: $(VENV)/ready-dev system  ## Run every test
	@$(SAFE)
	$(VENV)/bin/pytest tests/unit tests/property tests/integration $(PYTEST)

check: $(VENV)/ready-dev  ## Format, lint, types, import contracts, unit and property tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest -q tests/unit tests/property $(PYTEST)

crash: $(VENV)/ready-dev  ## The daemon dies or is refused at each system call; CRASH='--scenario stop --most 100 --errors 50'
	$(VENV)/bin/python tests/integration/crash_points.py $(CRASH)

soak: $(VENV)/ready-dev  ## Ten minutes of crashes, reloads, edits and deaths of the daemon; SOAK='--seconds 600 --seed 1'
	$(VENV)/bin/python tests/integration/soak.py $(SOAK)

bench: $(VENV)/ready-dev  ## Measure the figures of the README, each side by side with its yardstick
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(VENV)/bin/python $$script || exit 1; done

digests:             ## Write the digests of plugins/ into config/catalog.yaml
	$(PYTHON) plugins/digests.py

install:             ## Install plugind and pluginctl under PREFIX (default /usr/local), below DESTDIR
	$(PYTHON) -m venv $(DESTDIR)$(PREFIX)/lib/plugind || { sh config/need-venv.sh $(PYTHON) && $(PYTHON) -m venv $(DESTDIR)$(PREFIX)/lib/plugind; }
	$(DESTDIR)$(PREFIX)/lib/plugind/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt .
	sed -i '1s|^#!$(DESTDIR)|#!|' $(DESTDIR)$(PREFIX)/lib/plugind/bin/plugind $(DESTDIR)$(PREFIX)/lib/plugind/bin/pluginctl
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/plugind
	ln -sfn ../lib/plugind/bin/plugind $(DESTDIR)$(PREFIX)/bin/plugind
	ln -sfn ../lib/plugind/bin/pluginctl $(DESTDIR)$(PREFIX)/bin/pluginctl
	test -e $(DESTDIR)/etc/plugind/plugind.yaml || install -m 0644 config/plugind.yaml $(DESTDIR)/etc/plugind/plugind.yaml

clean:               ## Remove what was built, and the state of `make run`
	rm -rf $(VENV) $(RUN) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh config/need-venv.sh $(PYTHON)
	@echo "making the environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(PIP) --editable .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@$(PIP) --editable '.[dev]'
	@touch $@

$(RUN)/plugind.yaml: Makefile
	@mkdir -p $(RUN)
	@printf '%s\n' '# made by `make run`' 'catalog: $(CURDIR)/config/catalog.yaml' 'node: demo' \
	  'socket: {path: $(RUN)/control.sock}' 'runtime_dir: $(RUN)' 'state_dir: $(RUN)/state' 'log_dir: $(RUN)/log' > $@

.PHONY: short
short:
	@run=$(RUN); [ "$${#run}" -le 75 ] || { echo "cannot run below $$run: the path of a Unix socket has at most 107 bytes." \
	  "Name a shorter folder: make run RUN=/tmp/plugind" >&2; exit 1; }

# What tests need from Debian; without root those tests are skipped and say what to install.
.PHONY: system
system:
	@for need in $(SYSTEM); do command -v $$need >/dev/null || missing="$$missing $$need"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; apt-get -qq update && apt-get -qq install --yes --no-install-recommends $$missing >/dev/null; fi
