"""Runs of a very small recipe, some of them killed."""

import errno
import json
import re
import shutil
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from mtp_code.checkpoint import checkpoint_path, latest_checkpoint, read_weights
from mtp_code.config import validate
from mtp_code.data.batches import Batch, TrainingBatches
from mtp_code.data.prepare import prepare
from mtp_code.data.shards import ShardSet, open_shards
from mtp_code.errors import AskedToEnd, CheckpointError, MachineError, RecipeError, TrainingError
from mtp_code.files import alone_in
from mtp_code.model.accounting import flops_per_token
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.recipe import Recipe
from mtp_code.run_folder import begin_run, load_run, read_run
from mtp_code.training import loop
from mtp_code.training.finite import FiniteWatch
from mtp_code.training.loop import Progress, _validations, train
from mtp_code.training.loop import validate as validate_losses
from mtp_code.training.metrics import read_metrics
from tests import processes

NUM_STEPS = 24


def recipe_for(folder: Path, num_steps: int = NUM_STEPS, **training: object) -> Recipe:
    values = {
        "name": "test",
        "tokenizer": {"kind": "bytes"},
        "data": {
            "sources": {"texts": {"kind": "jsonl", "path": str(folder / "texts.jsonl")}},
            "validation_share": 0.2,
        },
        "model": {
            "width": 16, "num_layers": 3, "num_attn_heads": 2, "ffn_width": 24,
            "num_mtp_heads": 2, "context": 64,
        },
        "optim": {"kind": "muon", "lr": 1e-2},
        "schedule": {"num_steps": num_steps, "warmup_steps": 2},
        "training": {
            "row_tokens": 32, "rows": 4, "num_threads": 1, "log_every": 1, "validate_every": 10,
            "checkpoint_every": 5, "micro_batches": 2, "validation_tokens": 256, **training,
        },
    }  # fmt: skip
    return validate(Recipe, values, where="test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    lines = [{"text": f"def f{i}(x):\n    return x + {i}\n" * 3} for i in range(80)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = recipe_for(folder)
    prepare(recipe.data, recipe.tokenizer, folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> ShardSet:
    return open_shards(folder / "tokens")


@pytest.fixture(scope="module")
def whole_run(folder: Path, shards: ShardSet) -> Path:
    train(recipe_for(folder), shards, folder / "whole")
    return folder / "whole"


def files_of(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def losses_of(run_dir: Path) -> list[object]:
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [(row["kind"], row["step"], row["loss_by_offset"]) for row in rows]


def test_training_lowers_the_loss_of_every_offset(whole_run):
    rows = read_metrics(whole_run / "metrics.jsonl")
    steps = [row["loss_by_offset"] for row in rows if row["kind"] == "train"]
    assert len(steps[0]) == 2
    assert all(last < 0.9 * first for first, last in zip(steps[0], steps[-1], strict=True))
    validations = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in validations] == [10, 20, NUM_STEPS]
    assert all(row["bits_per_byte"] > 0 for row in validations)


def test_a_rate_of_tokens_comes_with_its_arithmetic(folder, whole_run):
    flops = flops_per_token(recipe_for(folder).model, row_tokens=32).total
    rows = [row for row in read_metrics(whole_run / "metrics.jsonl") if row["kind"] == "train"]
    for row in rows:
        assert row["flops_per_s"] == pytest.approx(row["tokens_per_s"] * flops, rel=1e-3)
        assert row["flops_ratio"] > 1
        assert "mfu" not in row, "nobody knows a CPU's peak"


def test_a_finished_run_says_how_it_was_made(whole_run):
    record = read_run(whole_run)
    assert record["finished_at"] is not None
    assert record["cpu_s"] > 0
    assert record["recipe"]["model"]["width"] == 16
    assert record["model"]["num_trunk_layers"] == 1
    assert {"python", "torch", "mtp-code"} <= record["versions"].keys()


def test_bits_per_byte_of_a_byte_model_are_its_loss(whole_run):
    last = read_metrics(whole_run / "metrics.jsonl")[-1]
    # One byte a token, but for the ends of text, which are labels and no bytes.
    bits = last["loss_by_offset"][0] / torch.log(torch.tensor(2.0)).item()
    assert bits < last["bits_per_byte"] < 1.1 * bits


def train_and_tell(folder: Path, run_dir: Path, told: Connection) -> None:
    torch.set_num_threads(1)
    tell = lambda progress: told.send(progress.step)  # noqa: E731
    train(recipe_for(folder), open_shards(folder / "tokens"), run_dir, tell)


def test_killed_at_any_moment_it_ends_bit_identical(folder, whole_run):
    run_dir, context = folder / "killed", processes.that_train()
    for stop_after in (4, 14):  # between checkpoints
        steps, told = context.Pipe(duplex=False)
        process = context.Process(target=train_and_tell, args=(folder, run_dir, told))
        process.start()
        told.close()
        while steps.recv() < stop_after:
            pass
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert read_run(run_dir)["finished_at"] is None
    train(recipe_for(folder), open_shards(folder / "tokens"), run_dir)
    expected = checkpoint_path(whole_run, NUM_STEPS)
    assert files_of(checkpoint_path(run_dir, NUM_STEPS)) == files_of(expected)
    assert losses_of(run_dir) == losses_of(whole_run)


def with_objective(folder: Path, heads: str = "parallel", **objective: object) -> Recipe:
    values = recipe_for(folder).model_dump()
    values["model"] |= {
        "heads": heads, "num_layers": 5, "num_mtp_heads": 4,
        "token_order_unembedding": "token_order" in objective,
    }  # fmt: skip
    values["training"]["objective"] = objective
    return validate(Recipe, values, where="test")


@pytest.mark.parametrize("order", ["forward", pytest.param("reverse", marks=pytest.mark.thorough)])
def test_a_curriculum_stopped_at_any_stage_ends_bit_identical(folder, shards, order, tmp_path):
    """Heads that have not trained yet, and those that have ceased to, survive a checkpoint."""
    recipe = with_objective(folder, curriculum={"order": order})
    train(recipe, shards, tmp_path / "whole")

    def stop_behind_step_15(progress: Progress) -> None:
        if progress.step == 17:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(recipe, shards, tmp_path / "stopped", stop_behind_step_15)
    train(recipe, shards, tmp_path / "stopped")
    ends = [checkpoint_path(tmp_path / name, NUM_STEPS) for name in ("whole", "stopped")]
    assert files_of(ends[0]) == files_of(ends[1])
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "stopped")
    rows = read_metrics(tmp_path / "whole/metrics.jsonl")
    by_step = [row["loss_by_offset"] for row in rows if row["kind"] == "train"]
    numbers = [1 + step // 6 for step in range(NUM_STEPS)]
    assert [len(losses) for losses in by_step] == (
        numbers if order == "forward" else [5 - number for number in numbers]
    )
    validations = [row["loss_by_offset"] for row in rows if row["kind"] == "validation"]
    assert all(len(losses) == 4 for losses in validations)


@pytest.mark.parametrize(
    "heads",
    [
        "sequential",
        pytest.param("anticausal", marks=pytest.mark.thorough),
        pytest.param("causal", marks=pytest.mark.thorough),
        pytest.param("linear", marks=pytest.mark.thorough),
    ],
)
def test_other_heads_train_and_come_back_from_their_checkpoint(folder, shards, heads, tmp_path):
    recipe = with_objective(
        folder,
        heads,
        distillation={"weight": 0.5},
        token_order={"window": 8},
        weights={"initial": [1, 0.5, 0.5, 0.5], "final": [1, 0.1, 0.1, 0.1]},
    )
    train(recipe, shards, tmp_path)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    first, last = rows[0], rows[-1]
    assert last["loss"] < first["loss"]
    assert last["token_order"] < first["token_order"]
    firsts, lasts = first["loss_by_offset"], last["loss_by_offset"]
    assert all(b < 0.95 * a for a, b in zip(firsts, lasts, strict=True))
    assert first["weight_by_offset"] == [1, 0.5, 0.5, 0.5]
    weights, divergences = last["weight_by_offset"], last["distillation_by_offset"]
    assert weights == pytest.approx([1, 0.1, 0.1, 0.1])
    assert divergences[0] == 0
    terms = zip(weights, lasts, divergences, strict=True)
    total = sum(weight * (loss + 0.5 * divergence) for weight, loss, divergence in terms)
    assert last["loss"] == pytest.approx(total + last["token_order"])
    loaded = load_run(tmp_path)
    assert loaded.model.config.heads == heads
    validation = read_metrics(tmp_path / "metrics.jsonl")[-1]
    (again,) = _validations(shards, recipe.training, 4).values()
    assert validate_losses(loaded.model, again, recipe.training) == {
        name: validation[name] for name in ("loss_by_offset", "bits_per_byte")
    }


def test_a_run_begun_before_a_key_had_a_name_goes_on(folder, shards, whole_run, tmp_path):
    run_dir = tmp_path / "before"
    shutil.copytree(whole_run, run_dir)
    record = json.loads((run_dir / "run.json").read_text())
    del record["recipe"]["training"]["objective"], record["recipe"]["model"]["heads"]
    (run_dir / "run.json").write_text(json.dumps(record))
    train(recipe_for(folder), shards, run_dir)
    with pytest.raises(RecipeError, match=r"model\.heads: parallel -> causal"):
        train(with_objective(folder, "causal"), shards, run_dir)


def test_offsets_without_a_label_have_no_loss(folder, tmp_path):
    """Documents of one token and an end of text: what is 3 or 4 ahead is of another one."""
    values = with_objective(folder).model_dump()
    values["data"]["sources"]["texts"]["path"] = str(tmp_path / "texts.jsonl")
    values["data"]["validation_share"] = 0.2
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": chr(number)}) + "\n" for number in range(33, 127))
    )
    recipe = validate(Recipe, values, where="test")
    prepare(recipe.data, recipe.tokenizer, tmp_path / "tokens")
    train(recipe, open_shards(tmp_path / "tokens"), tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert {row["kind"] for row in rows} >= {"train"}
    for row in rows:
        assert 1 <= len(row["loss_by_offset"]) < 4
        assert all(loss > 0 for loss in row["loss_by_offset"])


def test_a_loss_that_the_machine_cannot_compute_is_refused_before_the_run_begins(
    folder, shards, tmp_path
):
    with pytest.raises(MachineError, match=r"pip install 'mtp-code\[kernels\]'|needs a GPU"):
        train(with_objective(folder, loss="cut"), shards, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_checkpoint_cut_off_while_it_was_written_is_no_checkpoint(folder, shards, whole_run):
    run_dir = folder / "cut"
    shutil.copytree(whole_run, run_dir)
    last = checkpoint_path(run_dir, NUM_STEPS)
    # As a kill leaves it: written aside, not yet renamed.
    last.rename(last.with_name(f".{last.name}.123.aside"))
    assert latest_checkpoint(run_dir) == checkpoint_path(run_dir, 20)
    train(recipe_for(folder), shards, run_dir)
    assert files_of(last) == files_of(checkpoint_path(whole_run, NUM_STEPS))


def test_a_changed_checkpoint_is_refused(folder, shards, whole_run):
    run_dir = folder / "changed"
    shutil.copytree(whole_run, run_dir)
    path = latest_checkpoint(run_dir)
    assert path is not None
    for name in ("optimizer.safetensors", "model.safetensors"):
        content = bytearray((path / name).read_bytes())
        content[-1] ^= 1
        (path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}: changed since it was written"):
            train(recipe_for(folder), shards, run_dir)
        if name == "model.safetensors":
            with pytest.raises(CheckpointError, match="changed since it was written"):
                load_run(run_dir)
        content[-1] ^= 1
        (path / name).write_bytes(content)


def test_another_recipe_in_the_same_folder_is_refused_by_the_key_that_differs(
    folder, shards, whole_run
):
    told = r"training\.rows: 4 -> 8; .* --allow-changed training\.rows$"
    with pytest.raises(RecipeError, match=told):
        train(recipe_for(folder, rows=8), shards, whole_run)


def test_other_tokens_under_the_same_recipe_are_refused(folder, whole_run, tmp_path):
    recipe = recipe_for(folder)
    (tmp_path / "texts.jsonl").write_text('{"text": "other = 1\\n"}\n' * 3 + '{"text": "x"}\n' * 90)
    values = recipe.model_dump()
    values["data"] |= {"validation_share": 0.0}
    values["data"]["sources"]["texts"]["path"] = str(tmp_path / "texts.jsonl")
    other = validate(Recipe, values, where="test")
    prepare(other.data, other.tokenizer, tmp_path / "tokens")
    with pytest.raises(RecipeError, match="begun on other tokens"):
        train(recipe, open_shards(tmp_path / "tokens"), whole_run)


def test_two_processes_do_not_train_in_one_folder(folder, shards, tmp_path):
    with alone_in(tmp_path, wait=False), pytest.raises(TrainingError, match="another process"):
        train(recipe_for(folder), shards, tmp_path)


def test_what_a_kill_left_beside_the_checkpoints_is_cleared_away(folder, shards, tmp_path):
    leftover = tmp_path / "checkpoints" / ".step-00000005.99.aside"
    leftover.mkdir(parents=True)
    train(recipe_for(folder, num_steps=3), shards, tmp_path)
    assert not leftover.exists()


class Poison:
    """A step whose gradients are no numbers, in a run that looks at each a step late or at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, steps_late: int) -> None:
        self.weights_before: dict[str, torch.Tensor] = {}
        backward, num_calls = loop.backward, 0

        def poisoned(model: MTPModel, *arguments: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            figures = backward(model, *arguments)
            if num_calls == step:
                weights = model.state_dict().items()
                self.weights_before = {name: weight.clone() for name, weight in weights}
                gradient = model.norm.weight.grad
                assert gradient is not None
                gradient.fill_(torch.nan)
            return figures

        monkeypatch.setattr(loop, "backward", poisoned)
        monkeypatch.setattr(
            FiniteWatch,
            "on",
            lambda device, run_dir, batches: FiniteWatch(run_dir, batches, steps_late),
        )

    def assert_kept(self, run_dir: Path, step: int) -> None:
        """The newest checkpoint is of that step, finite, and what the bad step began from."""
        newest = latest_checkpoint(run_dir)
        assert newest == checkpoint_path(run_dir, step)
        kept, _ = read_weights(newest)
        assert all(weight.isfinite().all() for weight in kept.values())
        assert all(torch.equal(kept[name], weight) for name, weight in self.weights_before.items())
        assert len(self.weights_before) >= len(kept) > 0


@pytest.mark.parametrize("steps_late", [0, 1])
def test_a_step_that_is_no_number_is_neither_logged_nor_kept(
    folder, shards, tmp_path, monkeypatch, steps_late
):
    poison = Poison(monkeypatch, 7, steps_late)
    told = r"at step 7 \(gradient norm nan\).* texts\.train\.bin from token \d+ \(document \d+"
    tokens = re.escape(str(folder / "tokens"))
    with pytest.raises(TrainingError, match=told.replace(" texts", f"{tokens}/texts")):
        train(recipe_for(folder, checkpoint_every=1), shards, tmp_path)
    poison.assert_kept(tmp_path, 6)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [*range(1, 7)]


@pytest.mark.parametrize("steps_late", [0, 1])
def test_asked_to_end_in_a_step_that_is_no_number_it_keeps_the_checkpoint_before(
    folder, shards, tmp_path, monkeypatch, steps_late
):
    """Step 7 is not one that is logged, and so looked at, before its checkpoint."""
    poison = Poison(monkeypatch, 7, steps_late)

    def ask(progress: Progress) -> None:
        if progress.step == 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(TrainingError, match="at step 7 "):
        train(recipe_for(folder, checkpoint_every=2, log_every=2), shards, tmp_path, ask)
    poison.assert_kept(tmp_path, 6)


def test_steps_without_any_label_count_in_no_mean(folder, shards, tmp_path, monkeypatch, caplog):
    """Steps 3 and 4 of 8 are padding, and so is step 5 of the window of 5 and 6."""
    rows = TrainingBatches.rows
    recipe = recipe_for(folder, num_steps=8, log_every=2, checkpoint_every=6)

    def some_empty(batches: TrainingBatches, first: int, num_rows: int) -> Batch:
        batch = rows(batches, first, num_rows)
        is_empty = first // recipe.training.rows in (2, 3, 4)
        return batch._replace(documents=np.full_like(batch.documents, -1)) if is_empty else batch

    monkeypatch.setattr(TrainingBatches, "rows", some_empty)
    train(recipe, shards, tmp_path)
    logged = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in logged] == [2, 6, 8]
    assert all(len(row["loss_by_offset"]) == 2 for row in logged)
    assert logged[1]["loss"] == pytest.approx(sum(logged[1]["loss_by_offset"]))
    assert "no label in the steps up to 4" in caplog.text


def test_a_loaded_run_is_the_model_that_was_trained(whole_run):
    loaded = load_run(whole_run)
    assert loaded.model.num_mtp_heads == 2
    assert loaded.description["checkpoint"] == f"step-{NUM_STEPS:08d}"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("x = 1\n")) == "x = 1\n"
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_asked_to_end_it_keeps_a_checkpoint(folder, shards, tmp_path, number):
    """Behind step 2, where no checkpoint was due."""

    def ask(progress: Progress) -> None:
        if progress.step == 1:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(AskedToEnd, match=f"ended at step 2 of {NUM_STEPS}"):
        train(recipe_for(folder), shards, tmp_path, ask)
    assert signal.getsignal(number) is before
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 2)


def test_asked_to_end_it_goes_on_bit_identical(folder, shards, whole_run, tmp_path):
    def ask(progress: Progress) -> None:
        if progress.step == 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(AskedToEnd, match=f"ended at step 7 of {NUM_STEPS}"):
        train(recipe_for(folder), shards, tmp_path, ask)
    train(recipe_for(folder), shards, tmp_path)
    assert files_of(checkpoint_path(tmp_path, NUM_STEPS)) == files_of(
        checkpoint_path(whole_run, NUM_STEPS)
    )
    assert losses_of(tmp_path) == losses_of(whole_run)


def test_asked_to_end_between_two_logged_steps_it_logs_the_same_means(folder, shards, tmp_path):
    """Behind step 6: the mean that is logged at step 10 is over it, too."""
    recipe = recipe_for(folder, num_steps=10, log_every=5)

    def ask(progress: Progress) -> None:
        if progress.step == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(AskedToEnd, match="ended at step 6 of 10"):
        train(recipe, shards, tmp_path / "stopped", ask)
    train(recipe, shards, tmp_path / "stopped")
    train(recipe, shards, tmp_path / "whole")
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")


def test_a_full_disk_leaves_the_checkpoint_before(folder, shards, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    def fill(progress: Progress) -> None:
        if progress.step == 7:
            monkeypatch.setattr("mtp_code.checkpoint.save_file", full)

    with pytest.raises(OSError, match="No space left on device") as caught:
        train(recipe_for(folder), shards, tmp_path, fill)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_what_changes_nothing_that_is_learned_may_change(folder, shards, whole_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole_run, run_dir)
    train(recipe_for(folder, keep_checkpoints=1), shards, run_dir)
    (change,) = read_run(run_dir)["recipe_changes"]
    assert change["changes"] == {"training.keep_checkpoints": [2, 1]}
    train(recipe_for(folder, rows=8), shards, run_dir, allow_changed=["training.rows"])
    assert read_run(run_dir)["recipe"]["training"]["rows"] == 8


def test_threads_are_chosen_again_when_the_recipe_or_the_processes_ask(
    folder, shards, whole_run, tmp_path
):
    run_dir = tmp_path / "run"
    shutil.copytree(whole_run, run_dir)
    model = build_model(recipe_for(folder).model, 1)

    def threads(recipe: Recipe, chosen: int, num_processes: int) -> int:
        begin_run(run_dir, recipe, shards, model, lambda: chosen, num_processes=num_processes)
        return read_run(run_dir)["num_threads"]

    assert threads(recipe_for(folder), 5, num_processes=1) == 1
    assert threads(recipe_for(folder, num_threads=3), 3, num_processes=1) == 3
    assert threads(recipe_for(folder, num_threads=3), 2, num_processes=2) == 2
    assert threads(recipe_for(folder, num_threads=3), 7, num_processes=2) == 2
