VENV ?= .venv
export VENV

.PHONY: setup demo test test-quick lint sanitize torture format compare bench deb try-deb clean

setup: ; @bash packaging/devel/setup.sh
demo: setup ; @bash bench/demo.sh
# The first tests compute; the others, of links in real time and of the whole daemon, wait most of the time.
WHOLE := tests/integration tests/interop tests/torture
WAITING := tests/unit/client tests/unit/net $(WHOLE)
BESIDE := -n 3 --dist loadgroup

test: setup ; $(VENV)/bin/pytest -n auto $(WAITING:%=--ignore=%) && $(VENV)/bin/pytest $(BESIDE) $(WAITING) && GGAOE_ENGINE=portable $(VENV)/bin/pytest $(BESIDE) -m "not one_engine" $(WHOLE)
test-quick: setup ; $(VENV)/bin/pytest -n auto tests/tidy tests/unit tests/property
lint: setup ; $(VENV)/bin/pytest tests/tidy
sanitize: setup ; @bash packaging/devel/sanitize.sh
torture: setup ; @bash packaging/devel/torture.sh $(SECONDS)
format: setup ; $(VENV)/bin/ruff check -q --fix . ; $(VENV)/bin/ruff format -q . ; $(VENV)/bin/python -m ggaoe.config.example > ggaoed.conf.example
compare: setup ; $(VENV)/bin/python tests/interop/fio_compare.py
bench: setup ; $(VENV)/bin/python bench/run.py --record
deb: setup ; @bash packaging/debian/build.sh
try-deb: setup ; @bash packaging/debian/try.sh
clean: ; rm -rf $(VENV) build dist packaging/made *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
