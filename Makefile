# Everything for development; `make help` lists it. Two stamps in .venv say what is installed
# there, so that a target whose environment is current does not call pip.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test unit torture lint format upgrade proto check-proto docs kafka kinesis pubsub bench dist clean

PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
KAFKA_PORT ?= 9092
KINESIS_PORT ?= 4567
PUBSUB_PORT ?= 8085
BIN := .venv/bin
RUN := .venv/.installed-run
DEV := .venv/.installed-dev
UNIT_TESTS = $(shell find tests -name 'test_*.py' -not -path 'tests/integration/*' | sort)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; set PYTHON to it" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

$(RUN): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,lint]' build
	@touch $(RUN) $@

run: $(RUN) ## Start the server with events to its log, a journal and metrics; ports by environment
	@export PUBLISHER_TYPE="$${PUBLISHER_TYPE:-log}" METRIC_PROMETHEUS_ENABLED="$${METRIC_PROMETHEUS_ENABLED:-true}"; \
	export EVENT_ACK="$${EVENT_ACK:-2}" JOURNAL_DIR="$${JOURNAL_DIR:-raccoon-journal}"; \
	http="localhost:$${SERVER_WEBSOCKET_PORT:-8080}"; \
	echo "REST       http://$$http/api/v1/events"; \
	echo "WebSocket  ws://$$http/api/v1/events"; \
	echo "gRPC       localhost:$${SERVER_GRPC_PORT:-8081}"; \
	echo "Metrics    http://localhost:$${METRIC_PROMETHEUS_PORT:-9090}$${METRIC_PROMETHEUS_PATH:-/metrics}"; \
	echo "Events go to: $$PUBLISHER_TYPE$$([ "$$PUBLISHER_TYPE" != log ] || echo ', here, one line each')"; \
	case "$$EVENT_ACK" in \
	0) echo "Success means: accepted, in memory (EVENT_ACK=0)" ;; \
	1) echo "Success means: delivered (EVENT_ACK=1)" ;; \
	2) echo "Success means: on disk in $$JOURNAL_DIR until delivered (EVENT_ACK=2); $(BIN)/raccoon-journal looks into it" ;; \
	esac; \
	echo "Try it from another terminal:"; \
	echo "  curl http://$$http/api/v1/events -H 'Content-Type: application/json' -H 'X-User-ID: me' -d '{\"req_guid\":\"1\",\"events\":[{\"type\":\"click\",\"event_bytes\":\"eyJidXR0b24iOiJidXkifQ==\"}]}'"; \
	echo "Ctrl-C stops it."; \
	exec $(BIN)/twistd -n --pidfile= raccoon

test: $(DEV) ## Run all tests; those of tests/integration need Java 17 and Maven
	$(BIN)/trial tests

unit: $(DEV) ## Run the tests that need no socket, process or broker
	$(BIN)/trial $(UNIT_TESTS)

torture: $(DEV) ## Run the long forms of tests: 200 kills, 60,000 requests in an outage, 5,000 examples of each property
	command -v strace >/dev/null || apt-get install -y -qq --no-install-recommends strace
	RACCOON_TORTURE=1 $(BIN)/trial tests.integration.test_journal_crashes tests.integration.test_journal \
		tests.integration.test_journal_disk tests.integration.test_journal_power \
		tests.test_codec_properties tests.test_payload tests.journal.files

lint: $(DEV) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

upgrade: ## Install the newest versions of all dependencies and write them into constraints.txt
	rm -rf .venv
	$(MAKE) $(BIN)/pip
	$(BIN)/pip install --quiet -e '.[test,lint]' build
	{ echo '# The versions that were tested together; `make upgrade` writes this file.'; \
	$(BIN)/pip freeze --exclude-editable; } >constraints.txt
	@touch $(RUN) $(DEV)

proto: $(BIN)/pip ## Generate raccoon/proto from proto/
	PYTHON=$(BIN)/python scripts/generate_proto.sh

check-proto: $(BIN)/pip ## Check that raccoon/proto is what proto/ gives
	PYTHON=$(BIN)/python scripts/generate_proto.sh --check

docs: $(DEV) ## Generate docs/configuration.md and docs/metrics.md
	$(BIN)/python scripts/generate_docs.py

kafka: $(DEV) ## Run a Kafka broker for development in the foreground, on KAFKA_PORT (needs Java 17 and Maven)
	$(BIN)/python -m tests.engines.kafka start .cache/kafka-data --port $(KAFKA_PORT)

pubsub: $(DEV) ## Run Google's Pub/Sub emulator in the foreground, on PUBSUB_PORT (needs the Google Cloud SDK and Java)
	$(BIN)/python -m tests.engines.pubsub start --port $(PUBSUB_PORT)

kinesis: $(DEV) ## Run a Kinesis (moto's server) for development in the foreground, on KINESIS_PORT
	$(BIN)/python -m tests.engines.kinesis start --port $(KINESIS_PORT)

bench: $(DEV) ## Measure the service against a real Kafka; ARGS="--smoke", ARGS="--help" (needs Java 17, Maven, Go)
	$(BIN)/python -m benchmarks $(ARGS)

dist: $(DEV) ## Build the source distribution and the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build

clean: ## Remove what was installed, built or left by tests
	rm -rf .venv .venv-proto .cache build dist *.egg-info _trial_temp* .hypothesis .mypy_cache .ruff_cache
	rm -f twisted/plugins/dropin.cache twistd.pid twistd.log*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
