# make demo    the whole path on the simulated arm, over real ROS 2
# make test    every test once, at reduced counts; about 13 minutes on 2 cores
# make quick   what needs no process and no training, in a minute and a half: while you write
# make native-check   the native sampler in C++: sanitizers, random shapes, aarch64 under emulation
# make test-long   the same tests at full counts, in the background, resumable
# make test-runs    ten times `make test`, and three times beside two busy processes; resumable, for hours
# Each sets up what it needs: .venv, pinned wheels, the colcon build. Where ROS 2 is sourced already,
# that one is used instead of the wheels. A second run does not install again.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The extras of setup.py, less what a sourced ROS 2 brings.
EXTRAS := train,sim,onnx,dev$(if $(ROS_DISTRO),,,ros,build)
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
STAMP := $(VENV)/installed
SOURCES := $(shell git ls-files -co --exclude-standard qgf_ros training src msg srv launch config cmake CMakeLists.txt setup.py package.xml)
RUN := source ./env.sh &&

.PHONY: build demo test quick tables native-check test-long test-runs lint clean

build: install/.built

demo: install/.built
	$(RUN) qgf demo --out demo

# What pytest compiles of the tests is kept, whatever the environment says: a third of a minute each time.
test quick: export PYTHONDONTWRITEBYTECODE =
quick: install/.built
	$(RUN) pytest -q -n 2 --dist loadgroup --quick test

test: install/.built
	$(RUN) pytest -n 3 --dist loadgroup --max-worker-restart 0 test

tables: install/.built
	$(RUN) python test/tables.py

native-check: install/.built
	$(RUN) test/native/run.sh

test-long: install/.built
	@mkdir -p bench/results
	$(RUN) nohup python bench/long_tests.py > bench/results/test-long.log 2>&1 &
	@echo "running in the background; follow it with: tail -f bench/results/test-long.log"

test-runs: install/.built
	$(RUN) python bench/suite_runs.py --name quiet --runs 10
	$(RUN) python bench/suite_runs.py --name busy --runs 3 --busy 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build install log

# torch first and exactly: a range would fetch the newest build with gigabytes of CUDA.
$(STAMP): setup.py constraints.txt
	@bash cmake/check_system.sh $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(if $(ROS_DISTRO),--system-site-packages) $(VENV)
	$(BIN)/pip install -q $(CONSTRAINTS) torch==2.13.0
	$(BIN)/python setup.py -q requirements --extras $(EXTRAS) > $(VENV)/requirements.txt
	$(BIN)/pip install -q $(CONSTRAINTS) -r $(VENV)/requirements.txt
	@touch $@

install/.built: $(STAMP) $(SOURCES)
	$(RUN) colcon build --symlink-install --event-handlers console_cohesion+ \
	  --cmake-args -DPython3_EXECUTABLE="$$(command -v python)" -DBUILD_TESTING=OFF
	@find install -xtype l -delete  # links of an earlier build to files that have moved since
	@touch $@
