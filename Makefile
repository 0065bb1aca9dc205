# make demo   a night and a day on MovieLens 100K, then leaves nothing behind
# make up     the same, and keeps answering; make down stops it
# make test   the tests
# make check  ruff, mypy, import-linter, what deploys moonlark against its schemas, promtool where it is installed
# make bench  speed: every bench, with its floors and peers, then infra/bench/RESULTS.md
#             (DATA=FOLDER: a catalog of your own beside MovieLens in `encoder`)
# make accuracy DATA=FOLDER  accuracy: ACCURACY.md, its plots and ABLATIONS.md (without DATA MovieLens alone)
# make drills every drill at its whole length, one after the other: kill, switch, corrupt, overload
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# As installed: `make setup FAISS=gpu` changes it.
FAISS ?= $(if $(wildcard $(VENV)/.installed-gpu),gpu,cpu)

# One thread a process for numerics: Ray runs the processes, and spinning threads cost five times.
export OMP_WAIT_POLICY := PASSIVE
export OPENBLAS_NUM_THREADS := 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo up down test bench accuracy drills check setup data clean
.DEFAULT_GOAL := demo

INSTALLED := $(VENV)/.installed-$(FAISS)
setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing moonlark and its pinned dependencies into $(VENV) (about 2 minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moonlark needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
	@rm -f $(VENV)/.installed-*
	$(BIN)/python -m pip uninstall -qq --yes $(filter-out faiss-$(FAISS),faiss-cpu faiss-gpu)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[ray,airflow,$(FAISS),dev]'
	@touch $@

data: setup
	@$(BIN)/python -m infra.datasets
	@$(BIN)/python -m ray_jobs.compile_kernels

demo: data
	@$(BIN)/python -m infra.demo

up: data
	@$(BIN)/python -m infra.demo --keep

down: setup
	@$(BIN)/moonlark down --state-dir .moonlark/demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict infra .yamllint.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec infra/compose.yaml
	$(BIN)/hadolint infra/docker/*.Dockerfile
	$(BIN)/python -m infra.manifests.check
	$(BIN)/python -m pytest -q tests/unit/test_manifests.py
	$(BIN)/python -m infra.prometheus.check

# Two files at a time: one with a Ray cluster waits as long as it works. The last two are in processes
# of their own: Ray keeps the authentication mode of its first import, and they have another.
RAY_TOKEN_TESTS := tests/integration/test_ray_job.py tests/integration/test_local_stack.py
RAY_TESTS := tests/e2e $(filter-out $(RAY_TOKEN_TESTS),$(wildcard tests/integration/test_*.py))
test: data
	$(BIN)/python -m pytest -q -n 2 --dist loadfile \
		tests/unit tests/contract tests/simulation tests/integration/http
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(RAY_TESTS)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(RAY_TOKEN_TESTS)

bench: data
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[evaluation,openvino]'
	@$(BIN)/python -m infra.bench $(if $(DATA),--data $(DATA))

accuracy: data
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[evaluation]'
	$(BIN)/python -m infra.bench.accuracy $(if $(DATA),--data $(DATA))
	$(BIN)/python -m infra.bench.diversity_cost $(if $(DATA),--data $(DATA))
	$(BIN)/python -m infra.bench.gate_nights $(if $(DATA),--data $(DATA))
	$(BIN)/python -m infra.bench.ablations $(if $(DATA),--data $(DATA))

drills: setup
	$(BIN)/moonlark drill all

clean:
	rm -rf .moonlark build *.egg-info
