# Each target makes the environment when it is missing. On Windows: see README.md, "Plain pip".
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lab run test test-browser results site clean
.DEFAULT_GOAL := lab

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The course needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[lab,test]'
	@touch $@

# Another port than 8888 is tried first with: make lab PORT=9000
lab: .venv/installed
	@$(BIN)/python -m course_lib lab $(if $(PORT),--port $(PORT))

run: .venv/installed
	$(BIN)/python -m course_lib run

test: .venv/installed
	$(BIN)/python -m pytest

# Only the part of it that uses JupyterLab and the web site in Chromium; its pictures lie in
# build/screenshots.
test-browser: .venv/installed
	$(BIN)/python -m pytest tests/browser

# Every recipe over seeds, evaluated and published, then the results page; a run that was cut off goes
# on where it stopped. The defaults want a GPU: about ten minutes per run were planned for one. Cards
# of any profile but laptop carry its name (or VARIANT=word), and stand beside those that are there. A
# run that fails, or whose card would replace one of another budget, does not cost the others; the end
# names it.
PROFILE ?= gpu
SEEDS ?= 0 1 2
RECIPES ?= vae_mnist iwae_mnist gan_mnist_parzen dcgan_fashion dcgan_mnist wgan_gp_fashion \
	sngan_hinge_fashion deep_autoencoder_mnist dcgan_sprites cvae_sprites
RUNS ?= build/runs
VARIANT ?= $(filter-out laptop,$(PROFILE))

results: .venv/installed
	@failed=; for seed in $(SEEDS); do for recipe in $(RECIPES); do \
		out="$(RUNS)/$$recipe-$(PROFILE)-seed$$seed"; \
		{ test -f "$$out/card.json" || $(BIN)/python -m course_lib train $$recipe \
			--profile $(PROFILE) --seed $$seed --out "$$out" --resume; } && \
		$(BIN)/python -m course_lib publish "$$out" $(if $(VARIANT),--variant $(VARIANT)) \
			|| { test $$? -ne 130 || exit 130; failed="$$failed $$out"; }; \
	done; done; \
	$(BIN)/python -m course_lib readme || exit 1; \
	test -z "$$failed" || { echo "These did not end, or were not published:$$failed" >&2; exit 1; }

# The web site, from the stored notebooks: nothing is executed, nothing is fetched.
site: .venv/installed
	$(BIN)/python notebooks/site/build.py

clean:
	rm -rf build .pytest_cache .ruff_cache
