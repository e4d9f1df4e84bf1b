"""The recipe for bytes, cut short: trained with its weights, decoded with its own eight heads."""

import json
import math
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mtp_code.checkpoint import latest_checkpoint
from mtp_code.data.prepare import prepare
from mtp_code.data.shards import open_shards
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.model.mtp import fresh_weights
from mtp_code.recipe import load_recipe
from mtp_code.run_folder import load_run
from mtp_code.training.loop import train
from mtp_code.training.metrics import read_metrics
from mtp_code.training.schedule import ScheduleConfig, learning_rate_share
from tests.commands import COMMAND, mtp_code

NUM_STEPS = 20
RECIPE = f"""
base = "bytes8-tiny"
name = "short"

[data.sources.micro]
path = "{{folder}}/texts.jsonl"

[data.sources.stdlib]
kind = "folder"
path = "{{folder}}/source"

[model]
width = 32
num_layers = 10
ffn_width = 48

[schedule]
num_steps = {NUM_STEPS}
warmup_steps = 2

[training]
row_tokens = 64
log_every = 1
validate_every = {NUM_STEPS}
validation_tokens = 256
checkpoint_every = {NUM_STEPS}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "source").mkdir()
    texts = [f"def add{i}(x):\n    return x + {i}\n" for i in range(40)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for i, text in enumerate(texts[:20]):
        (folder / f"source/{i}.py").write_text(text.replace("add", "sub") * 3)
    (folder / "short.toml").write_text(RECIPE.format(folder=folder))
    recipe = load_recipe(str(folder / "short.toml"))
    prepare(recipe.data, recipe.tokenizer, folder / "tokens")
    train(recipe, open_shards(folder / "tokens"), folder / "run")
    return folder / "run"


def test_all_heads_learn_with_the_weights_that_they_have(run_dir):
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "train"]
    assert all(row["weight_by_offset"] == [1.0] + [0.1] * 7 for row in rows)
    last = rows[-1]["loss_by_offset"]
    assert len(last) == 8
    assert all(loss < math.log(257) for loss in last), "better than any byte as likely as another"


def test_each_offset_has_an_unembedding_that_was_trained(run_dir):
    model = load_run(run_dir).model
    unembeddings = [model.unembedding_for(offset).weight for offset in range(1, 9)]
    assert unembeddings[0].shape == (257, 32)
    fresh = {id(parameter): values for parameter, values in fresh_weights(model, seed=0)}
    for weight in unembeddings:
        assert all(not torch.equal(weight, other) for other in unembeddings if other is not weight)
        assert not torch.allclose(weight, fresh[id(weight)])


@pytest.mark.parametrize("num_drafts", [7, "auto"])
def test_drafts_of_its_own_heads_change_no_byte(run_dir, num_drafts):
    """Text beyond ASCII, too: a character is several bytes, of which drafts may hold some."""
    generated = []
    for drafts in (0, num_drafts):
        engine = Engine.load(run_dir, num_rows=2, num_drafts=drafts)
        prompts = [engine.tokenizer.encode_prompt(text) for text in ("def add7(", "# é")]
        generated.append(engine.generate([Request(prompt, 24) for prompt in prompts]))
    plain, drafted = generated
    assert [c.tokens for c in plain.completions] == [c.tokens for c in drafted.completions]
    assert all(len(completion.tokens) > 0 for completion in plain.completions)
    if num_drafts == 7:
        assert all(count > 0 for count in drafted.stats.drafted)
        assert len(drafted.stats.drafted) == 7


def that_trains(run_dir: Path, begun: Path) -> list[object]:
    """The command of a run that ends only if it is asked to."""
    endless = [f"--set={key}=100000" for key in ("schedule.num_steps", "training.checkpoint_every")]
    recipe, tokens = run_dir.with_name("short.toml"), run_dir.with_name("tokens")
    return ["train", recipe, "--tokens", tokens, "--run", begun, *endless]


def assert_ended(begun: Path, status: int, told: str) -> None:
    assert status == 75, told
    checkpoint = latest_checkpoint(begun)
    assert checkpoint is not None
    last = told.strip().splitlines()[-1]
    number = int(checkpoint.name.removeprefix("step-"))
    assert f"ended at step {number} of 100000, as asked; its checkpoint is kept" in last
    assert "Traceback" not in told


def test_sigterm_ends_training_with_status_75_and_a_checkpoint(run_dir, tmp_path, monkeypatch):
    def ask(step: int, schedule: ScheduleConfig) -> float:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return learning_rate_share(step, schedule)

    monkeypatch.setattr("mtp_code.training.loop.learning_rate_share", ask)
    done = mtp_code(*that_trains(run_dir, tmp_path / "run"), cwd=tmp_path)
    assert_ended(tmp_path / "run", done.returncode, done.stderr)


@pytest.mark.thorough
def test_sigterm_ends_a_process_that_trains_with_status_75_and_a_checkpoint(run_dir, tmp_path):
    """A process of its own, as a cluster's scheduler ends it."""
    begun = tmp_path / "run"
    command = [*COMMAND, *that_trains(run_dir, begun)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        metrics = begun / "metrics.jsonl"
        give_up_s = time.monotonic() + 300
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
        process.terminate()
        _, told = process.communicate(timeout=120)
    assert_ended(begun, process.returncode, told)
