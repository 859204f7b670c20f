# `make up` runs the whole system on this machine, `make test` runs every check. `make help` lists the rest.
# PORT, DATA_DIR, REDIS_URL, MONGODB_URL, DATABASE_URL and the other variables of .env.example come from the
# environment or from the command line: make up PORT=9000.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
TEMPLATES = $(wildcard templates */templates)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help up test docs lint format check alerts pytest postgres chaos next-django audit manifests manifests-write image image-test \
	install install-dev lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

up: $(VENV)/.runtime ## run the whole system on this machine, with its own stores; Ctrl-C stops it
	@$(BIN)/python manage.py up

test: $(VENV)/.dev lint check docs alerts manifests pytest postgres ## run every check of CI

lint: $(VENV)/.dev ## check style, types, imports, templates, scripts, the image, the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/djhtml --check --tabwidth 2 $(TEMPLATES)
	@! grep -rnE '^.{141,}' --include='*.html' $(TEMPLATES) || { echo "Break these lines: templates have at most 140 characters a line" >&2; exit 1; }
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python .ci/words.py
	$(BIN)/shellcheck .ci/run .ci/audit deploy/image/build management/scripts/*.sh
	$(BIN)/hadolint --config .hadolint.yaml Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(VENV)/.dev ## format the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/djhtml --tabwidth 2 $(TEMPLATES)

# Production settings, with a throw-away key and an empty database.
check: export DATABASE_URL = sqlite://:memory:
check: export SECRET_KEY = only-for-this-check-0123456789-abcdefghijklmnopqrstuvwxyz
check: $(VENV)/.dev ## run Django's deployment checks; fail on a missing migration
	$(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

# promtool is in Debian's package prometheus.
alerts: ## check the alert rules and run their tests, if promtool is installed
	@if command -v promtool >/dev/null; then \
		cd deploy/prometheus && promtool check rules alerts.yml && promtool test rules alerts_test.yml alerts_slow_test.yml; \
	else \
		echo "make alerts: skipped, promtool was not found" >&2; [ -z "$$PROMTOOL_REQUIRED" ]; \
	fi

docs: $(VENV)/.dev ## build the documentation as a site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

pytest: $(VENV)/.dev ## run the tests; they start the servers that they need
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# All tests of access and of the console, except those in the browser. New pages and roles of an app go into test_admin*.py.
ON_POSTGRES = $(addprefix dlqsite/tests/test_, $(addsuffix .py, \
		postgres access roles permissions sign_in audit pages doc_pages overview doors bodies problems openapi health losses \
		provider second_factor)) \
	$(wildcard */tests/test_admin*.py) breaker_app/tests/test_console.py messages_app/tests/test_databases.py management/tests/test_preparation.py \
	notify_app/tests/test_page.py notify_app/tests/test_outbox.py notify_app/tests/test_notifier.py
postgres: $(VENV)/.dev ## run the tests of access and console on PostgreSQL, if it is installed
	@if $(BIN)/python dlqsite/tests/postgres.py; then \
		TEST_POSTGRES=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ON_POSTGRES); \
	else \
		echo "make postgres: skipped" >&2; [ -z "$$POSTGRES_REQUIRED" ]; \
	fi

# A run with the same SECONDS, SEED, TOPOLOGY and version has the same faults and messages. TOPOLOGY=ha has replica sets.
SECONDS ?= 120
SEED ?=
TOPOLOGY ?= single
chaos: $(VENV)/.dev ## kill, stop, stall and fill every role and store for SECONDS, then check that nothing is lost; SEED repeats a run
	$(BIN)/python -m chaos run --seconds $(SECONDS) --topology $(TOPOLOGY) $(if $(SEED),--seed $(SEED))

# The newest Django needs a newer Python than this project. NEXT_TESTS= runs everything but journeys and the browser.
NEXT_PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 $(PYTHON) $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[2-9]*/bin/python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$python && break; done)
NEXT_TESTS ?=
next-django: ## run the tests on the newest Django (Python 3.12 or newer); NEXT_TESTS=FILES limits them
	@if [ -z "$(NEXT_PYTHON)" ]; then \
		echo "make next-django: skipped, no Python 3.12 or newer was found" >&2; [ -z "$$NEXT_REQUIRED" ]; \
	else \
		$(MAKE) --no-print-directory $(VENV)-next/.ready && $(VENV)-next/bin/python -c 'import django; print("Django", django.__version__)' && \
		$(VENV)-next/bin/python -m pytest -q -n $(JOBS) --dist loadfile -m "not journey and not browser" $(NEXT_TESTS); \
	fi

$(VENV)-next/.ready: requirements.txt requirements-embedded.txt requirements-dev.txt
	@echo "Installing the newest Django and the packages for tests into $(VENV)-next"
	@$(NEXT_PYTHON) -m venv $(VENV)-next
	@$(VENV)-next/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements.txt -r requirements-embedded.txt -r requirements-dev.txt
	@$(VENV)-next/bin/python -m pip --disable-pip-version-check -qq install --upgrade Django
	@touch $@

audit: $(VENV)-audit/.ready ## check pinned packages for known vulnerabilities; AUDIT_REQUIRED=1 fails when no service answers
	@PIP_AUDIT=$(VENV)-audit/bin/pip-audit .ci/audit requirements.txt requirements-embedded.txt

$(VENV)-audit/.ready: requirements-audit.txt
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements-audit.txt
	@touch $@

# These tools have environments of their own: what they depend on must not meet the project's packages.
manifests: $(VENV)-manifests/.ready ## render and validate deploy/kubernetes; needs no cluster
	$(VENV)-manifests/bin/python .ci/manifests.py
manifests-write: $(VENV)-manifests/.ready ## renew what deploy/kubernetes takes from the alert rules
	$(VENV)-manifests/bin/python .ci/manifests.py --write

image: $(VENV)-image/.ready ## build the image dlq:local and the list of its parts, with docker or buildah
	SYFT=$(VENV)-image/bin/syft deploy/image/build
image-test: $(VENV)/.dev ## run every role in the image, and stop each under load; needs podman or docker
	PYTHONPATH=. $(BIN)/python deploy/image/try_roles.py

$(VENV)-manifests/.ready $(VENV)-image/.ready: $(VENV)-%/.ready: requirements-%.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check -qq install --require-hashes --no-deps -r $<
	@touch $@

install: $(VENV)/.runtime ## create the virtual environment
install-dev: $(VENV)/.dev ## create the virtual environment with packages for development

# The stamps are inside the environment: they are removed with it, and are older than a changed lock file.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The virtual environment could not be created; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: requirements.txt requirements-embedded.txt | $(VENV)/bin/python
	@echo "Installing the pinned packages into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements.txt -r requirements-embedded.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@echo "Installing the packages for development into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

# --no-config and the cleared variables keep this machine's package sources out of the files.
COMPILE = env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL uv --no-config pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links
# The package that contains kubectl is a library of AWS; nothing of it is imported.
NOT_FOR_KUBECTL = aws-cdk-lib aws-cdk-asset-awscli-v1 aws-cdk-asset-node-proxy-agent-v6 aws-cdk-cloud-assembly-schema \
	constructs jsii publication typeguard cattrs python-dateutil
lock: ## compile the lock files from their .in files (needs uv)
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) requirements-embedded.in -o requirements-embedded.txt
	$(COMPILE) requirements-dev.in -o requirements-dev.txt
	$(COMPILE) requirements-audit.in -o requirements-audit.txt
	$(COMPILE) requirements-image.in -o requirements-image.txt
	$(COMPILE) requirements-manifests.in -o requirements-manifests.txt $(NOT_FOR_KUBECTL:%=--no-emit-package %)

clean: ## remove the virtual environment and caches; the data of `make up` stays
	rm -rf $(VENV) $(VENV)-audit $(VENV)-image $(VENV)-manifests $(VENV)-next .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
