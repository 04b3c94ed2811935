# `make run` starts a fleet, `make test` runs every test, `make check` reads the code without running it, `make faults`
# plays at length with chance and outages. Each makes .venv first, once; the stamp files in it make a second call quick,
# and a changed pyproject.toml or .ci/constraints.txt installs again.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint .ci/constraints.txt
SCRIPTS := fleetui/static/js fleetui/charts/assets

.PHONY: run check test faults station-wheel client-wheel chromium nginx

run: $(VENV)/.installed $(VENV)/.graphics
	@exec $(PY) manage.py start $(if $(STATIONS),--stations $(STATIONS))

# The rules of each are in pyproject.toml, those for JavaScript in .oxlintrc.json.
check: $(VENV)/.installed-tests
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/mypy
	@$(VENV)/bin/djlint templates --lint --quiet
	@$(VENV)/bin/oxlint $(SCRIPTS)
	@$(PY) .ci/lengths.py

test: $(VENV)/.installed-tests $(VENV)/.graphics chromium nginx
	@exec $(PY) -m pytest --numprocesses 2 --dist loadfile $(TESTS)

faults: $(VENV)/.installed-tests $(VENV)/.graphics chromium
	@FLEETUI_AT_LENGTH=1 exec $(PY) -m pytest tests/robots/test_control_machine.py tests/training/test_processes.py \
	    tests/fleetui/test_odd_addresses.py tests/browser/test_faults.py

# For a robot's machine (docs/stations.md): dist/fleetui_station-*.whl. What an older build left behind is not packed.
station-wheel: $(VENV)/.venv-made
	@rm -rf packaging/station/build
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist packaging/station
	@ls dist/fleetui_station-*.whl

# For programs elsewhere (docs/programs.md): dist/fleetui_client-*.whl, the client and the command `fleet`.
client-wheel: $(VENV)/.venv-made
	@rm -rf packaging/client/build
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist packaging/client
	@ls dist/fleetui_client-*.whl

$(VENV)/.venv-made:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    echo "Making $(VENV) with $$($$python --version) ..."; \
	    $$python -m venv $(VENV) && touch $@ && exit 0; \
	    echo "$$python can't make a virtual environment: on Debian or Ubuntu, apt install python3-venv." >&2; exit 1; \
	done; \
	echo "Python 3.11 or newer is needed and was not found:" \
	    "install it, or name it as in: make run PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.installed: $(VENV)/.venv-made pyproject.toml .ci/constraints.txt
	@echo "Installing what the fleet needs (once; some minutes, torch is large) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[test]'
	@touch $@

# Cameras draw a plain top view where this is missing, so a failure here ends nothing.
$(VENV)/.graphics: | $(VENV)/.venv-made
	@if [ "$$(uname)" = Linux ] && ! ldconfig -p 2>/dev/null | grep -q libEGL.so.1; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "Installing Mesa's OpenGL (libegl1, libgl1-mesa-dri), by which cameras give pictures ..."; \
	        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	          apt-get -qq install -y --no-install-recommends libegl1 libgl1-mesa-dri; } >/dev/null 2>&1 || \
	        echo "That did not work: cameras will show a drawn top view instead."; \
	    else \
	        echo "No OpenGL here: cameras will show a drawn top view." \
	            "Pictures come with: apt install libegl1 libgl1-mesa-dri"; \
	    fi; \
	fi
	@touch $@

chromium: $(VENV)/.installed-tests
	@$(PY) tests/chromium.py

nginx: $(VENV)/.installed-tests
	@$(PY) tests/nginx.py
