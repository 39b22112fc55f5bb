# Everything runs in .venv, made on first use. `make PYTHON=python3.12 test` uses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_OPTIONS)

.PHONY: demo test test-all test-slow test-distributed test-browser test-arithmetic test-vectorised test-unvectorised
.PHONY: test-trackio lint types layers docs package check-tag
.PHONY: bench-curvature bench-overhead bench-forecast bench-guard gpu-check harm reproduce clean

demo: $(VENV)/.demo
	$(BIN)/foreshock demo

test: $(VENV)/.dev
	$(BIN)/pytest -n 2

# What `make test` leaves out, by its marker. The browser tests need chromium and skip themselves without it.
test-slow test-distributed test-browser: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m $(@:test-%=%)

# All tests in one go, the slow ones first: tests/conftest.py.
test-all: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal -m ""

# What trainings come to must not hang on the last bits of one processor: those tests once more in other arithmetic.
# Waiting threads sleep, since the two are run side by side.
TRAINING = -n 0 -m "training and not slow" $$(grep -rl --include='*.py' 'mark\.training' tests)
test-arithmetic: test-vectorised test-unvectorised
test-vectorised: $(VENV)/.dev
	ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $(BIN)/pytest $(TRAINING)
test-unvectorised: $(VENV)/.dev
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/pytest $(TRAINING)

# The sink for Trackio against the real package, which wants another web stack than the constraints have: in an
# environment of its own, by hand.
test-trackio: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)-trackio
	$(VENV)-trackio/bin/pip install --quiet --disable-pip-version-check trackio
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $(VENV)-trackio/packages
	cp $(VENV)-trackio/packages "$$($(VENV)-trackio/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/zz_dev.pth"
	PYTHONPATH=src $(VENV)-trackio/bin/python -m pytest -n 0 tests/sinks -k trackio

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

# Build the distributions and try the wheel in environments of its own. Needs a clean clone: untracked files would be packed.
package: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python .ci/check_package.py dist

# TAG=v1.2.3: the release that the tag names is the one that the files state. The shell gets it as a variable, unread.
check-tag:
	@$(PYTHON) .ci/check_tag.py "$$TAG"

# Random trainings, watched and not, compared bit by bit: docs/reliability.md.
CASES ?= 2000
harm: $(VENV)/.dev
	$(BIN)/python -m benchmarks.harm --cases $(CASES)

# Every experiment of the paper at CPU scale; what was run before is kept in runs/.
reproduce: $(VENV)/.demo
	$(BIN)/foreshock reproduce all --first-seed 3 --results benchmarks/reproduction/results --docs docs

# SUITE=quick leaves out the large models.
SUITE ?= full
bench-curvature: $(VENV)/.peers
	$(BIN)/python -m benchmarks.curvature.run --suite $(SUITE)
	$(BIN)/python -m benchmarks.curvature.table benchmarks/curvature/results/$(SUITE).json docs/benchmarks/curvature.md

# Half an hour at most, resumable. `make bench-overhead SUITE=quick` takes three minutes and leaves out the largest model.
bench-overhead: $(VENV)/.peers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.overhead.run --suite $(SUITE)
	$(BIN)/python -m benchmarks.overhead.table benchmarks/overhead/results/$(SUITE).json docs/benchmarks/overhead.md

# On a machine with a GPU, eight minutes at most: what holds there and what it costs, docs/benchmarks/gpu.md.
gpu-check: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu

# Hours, resumable. Scores the held-out half: not while a rule is tuned.
bench-forecast: $(VENV)/.bench
	$(BIN)/foreshock bench forecast --suite full --release --out runs/spikebench
	$(BIN)/foreshock bench tapes --suite full --out runs/spikebench/tapes
	$(BIN)/foreshock bench forecast --suite test --release --out runs/spikebench-test
	$(BIN)/foreshock bench tapes --suite test --out runs/spikebench-test/tapes
	$(BIN)/foreshock bench probability --out runs/spikebench
	$(BIN)/foreshock bench probability --release --out runs/spikebench-test --tapes runs/spikebench-test/tapes --traces runs/spikebench/traces --traces runs/spikebench-test/traces
	$(BIN)/python -m benchmarks.spikebench.publish runs/spikebench --probability runs/spikebench/probability-development.json --probability runs/spikebench-test/probability-test.json

# The same of guards. CIFAR-10 takes part if FORESHOCK_CIFAR10 names it.
bench-guard: $(VENV)/.bench
	$(BIN)/foreshock bench guard --suite full --release --out runs/guardbench
	$(BIN)/python -m benchmarks.guardbench.publish runs/guardbench

# The peers and what they import require another torch, torchvision or a web server; the rest of it is in the extra.
$(VENV)/.peers: $(VENV)/.bench
	$(PIP_INSTALL) --no-deps pyhessian==0.1 curvlinops-for-pytorch==3.0.1 hessian-eigenthings==1.0.0a5 \
	  backpack-for-pytorch==1.7.1 unfoldNd==0.2.3 trainscope==1.8.1
	touch $@

# The stamps record which extra is installed, so that a second call starts at once.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-trackio docs/_build build dist
