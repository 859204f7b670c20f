# The two commands: `make up` runs everything here, `make test` proves everything. `make help` lists the rest.
# PORT, DATA_DIR, REDIS_URL, MONGODB_URL, DATABASE_URL and the other variables of .env.example reach the commands
# from the environment or from the line: make up PORT=9000.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
TEMPLATES = $(wildcard templates */templates)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help up test lint format check pytest postgres next-django audit install install-dev lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

up: $(VENV)/.runtime ## run the whole system here, with its own stores; Ctrl-C stops it
	@$(BIN)/python manage.py up

test: $(VENV)/.dev lint check pytest postgres ## everything that CI runs

lint: $(VENV)/.dev ## style, types, who imports whom; templates, scripts, the image, the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/djhtml --check --tabwidth 2 $(TEMPLATES)
	@! grep -rnE '^.{141,}' --include='*.html' $(TEMPLATES) || { echo "Break these lines: templates have at most 140 characters a line" >&2; exit 1; }
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python .ci/words.py
	$(BIN)/shellcheck .ci/run .ci/audit management/scripts/*.sh
	$(BIN)/hadolint --config .hadolint.yaml Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/.dev ## rewrite files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/djhtml --tabwidth 2 $(TEMPLATES)

# The settings of production, with a key that signs nothing and a database that holds nothing.
check: export DATABASE_URL = sqlite://:memory:
check: export SECRET_KEY = only-for-this-check-0123456789-abcdefghijklmnopqrstuvwxyz
check: $(VENV)/.dev ## Django's system checks, as for deployment, and no migration missing
	$(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

pytest: $(VENV)/.dev ## the tests, on real servers that they start themselves
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

ON_POSTGRES = $(addprefix dlqsite/tests/, test_postgres.py test_access.py test_roles.py) \
	breaker_app/tests/test_console.py messages_app/tests/test_databases.py
postgres: $(VENV)/.dev ## tests of keys and roles on a PostgreSQL that they start, if there is one
	@if $(BIN)/python dlqsite/tests/postgres.py; then \
		TEST_POSTGRES=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ON_POSTGRES); \
	else \
		echo "make postgres: skipped" >&2; [ -z "$$POSTGRES_REQUIRED" ]; \
	fi

# The newest Django wants a newer Python than we do. NEXT_TESTS= runs everything but journeys and the browser.
NEXT_PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 $(PYTHON) $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[2-9]*/bin/python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$python && break; done)
NEXT_TESTS ?=
next-django: ## the tests on the newest Django, which needs Python 3.12; NEXT_TESTS=FILES runs a part of them
	@if [ -z "$(NEXT_PYTHON)" ]; then \
		echo "make next-django: skipped, no Python 3.12 or newer was found" >&2; [ -z "$$NEXT_REQUIRED" ]; \
	else \
		$(MAKE) --no-print-directory $(VENV)-next/.ready && $(VENV)-next/bin/python -c 'import django; print("Django", django.__version__)' && \
		$(VENV)-next/bin/python -m pytest -q -n $(JOBS) --dist loadfile -m "not journey and not browser" $(NEXT_TESTS); \
	fi

$(VENV)-next/.ready: requirements.txt requirements-embedded.txt requirements-dev.txt
	@echo "Installing the newest Django and what tests need into $(VENV)-next"
	@$(NEXT_PYTHON) -m venv $(VENV)-next
	@$(VENV)-next/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements.txt -r requirements-embedded.txt -r requirements-dev.txt
	@$(VENV)-next/bin/python -m pip --disable-pip-version-check -qq install --upgrade Django
	@touch $@

audit: $(VENV)-audit/.ready ## known vulnerabilities of the pinned packages; AUDIT_REQUIRED=1 fails when nobody could be asked
	@PIP_AUDIT=$(VENV)-audit/bin/pip-audit .ci/audit requirements.txt requirements-embedded.txt

$(VENV)-audit/.ready: requirements-audit.txt
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements-audit.txt
	@touch $@

install: $(VENV)/.runtime ## the virtual environment with what runs
install-dev: $(VENV)/.dev ## the virtual environment with what runs and what tests

# The stamps lie inside the environment: they go when it goes, and are older than a lock file that has changed.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: requirements.txt requirements-embedded.txt | $(VENV)/bin/python
	@echo "Installing the pinned packages into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements.txt -r requirements-embedded.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@echo "Installing what tests need into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

# --no-config and the cleared variables keep a machine's own package sources out of the files.
COMPILE = env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL uv --no-config pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links
lock: ## compile the lock files from their .in files (wants uv)
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) requirements-embedded.in -o requirements-embedded.txt
	$(COMPILE) requirements-dev.in -o requirements-dev.txt
	$(COMPILE) requirements-audit.in -o requirements-audit.txt

clean: ## remove the virtual environment and caches; the data of `make up` stays
	rm -rf $(VENV) $(VENV)-audit $(VENV)-next .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
