"""The whole road through the command line, on a recipe of seconds."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import complaint, mtp_code

pytestmark = pytest.mark.usefixtures("shared_incubators")

RECIPE = """
base = "{tiny}"
name = "short"

[data.sources.micro]
path = "micro.jsonl"

[data.sources.stdlib]
kind = "folder"
path = "{source}"

[model]
width = 32
num_layers = 5
ffn_width = 48

[schedule]
num_steps = 24
warmup_steps = 3

[training]
log_every = 10
num_threads = 1
rows = 2
validation_tokens = 1024

[training.objective.weights]
initial = 1.0 # or later heads would agree with head 1 by luck, after so few steps
"""


@pytest.fixture(scope="module")
def folder(needs_sandbox: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with scores and decoding figures."""
    folder = tmp_path_factory.mktemp("road")
    package = Path(__file__).parents[2] / "mtp_code"
    text = RECIPE.format(tiny=package / "recipes/tiny.toml", source=package / "model")
    (folder / "short.toml").write_text(text)
    steps: list[tuple[object, ...]] = [
        ("micro", "--split", "train", "--count", 200, "--out", "micro.jsonl"),
        ("train", "short.toml"),
        ("micro", "--split", "test", "--out", "all-tasks.jsonl"),
    ]
    for step in steps:
        run(folder, *step)
    tasks = (folder / "all-tasks.jsonl").read_text().splitlines(keepends=True)[:6]
    (folder / "tasks.jsonl").write_text("".join(tasks))
    run(folder, "evaluate", "runs/short", "--benchmark", "tasks.jsonl", "--num-samples", 2,
        "--temperature", 0.8, "--max-new-tokens", 40, "--k", 1, "--k", 2)  # fmt: skip
    run(folder, "bench", "decode", "runs/short", "--count", 3, "--max-new-tokens", 16)
    return folder


def run(folder: Path, *arguments: object) -> str:
    done = mtp_code(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(folder: Path) -> Path:
    (found,) = (folder / "runs/short/eval").iterdir()
    return found


def test_samples_verdicts_and_scores_meet(folder):
    evaluated = results(folder)
    samples = [json.loads(line) for line in (evaluated / "samples.jsonl").open()]
    verdicts = [json.loads(line) for line in (evaluated / "verdicts.jsonl").open()]
    scores = json.loads((evaluated / "scores.json").read_text())
    keys = [(row["task_id"], row["index"]) for row in samples]
    assert keys == [(row["task_id"], row["index"]) for row in verdicts]
    assert len(keys) == scores["num_samples"] == 12
    assert sum(scores["by_verdict"].values()) == 12
    assert scores["isolation"] == "full"
    assert set(scores["pass_at_k"]) == {"1", "2"}
    assert scores["sampling"]["model"]["run"] == "short"


def test_bits_of_the_reference_solutions_are_in_the_score(folder, tmp_path):
    bits = json.loads((results(folder) / "reference-bits.json").read_text())
    scores = json.loads((results(folder) / "scores.json").read_text())
    assert bits["model"] == scores["sampling"]["model"]
    assert bits["tasks"] == scores["reference_bits"]
    assert len(bits["tasks"]) == 6
    assert "bits per byte of the reference solutions" in run(
        folder, "score", results(folder) / "verdicts.jsonl", "--benchmark", "tasks.jsonl",
        "--out", tmp_path / "scores.json",
    )  # fmt: skip
    out = run(folder, "reference-bits", "runs/short", "--benchmark", "tasks.jsonl", "--out",
              tmp_path / "bits.json", "--prompt-format", "chat-plain")  # fmt: skip
    assert "bits per byte of 6 solutions" in out
    other = json.loads((tmp_path / "bits.json").read_text())
    assert other["prompt_format"] == "chat plain"
    assert all(
        other["tasks"][task][1] > num_bytes for task, (_, num_bytes) in bits["tasks"].items()
    )


def test_a_chat_goes_through_the_models_template_or_is_put_plainly(folder, tmp_path):
    def drawn(name):
        done = mtp_code("sample", tmp_path / name, "--benchmark", "tasks.jsonl", "--prompt-format",
                        "chat", "--max-new-tokens", 8, cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
        sampling = tmp_path / name / "eval/tasks/sampling.json"
        return done.stderr, json.loads(sampling.read_text())

    for name in ("plain", "talker"):
        shutil.copytree(folder / "runs/short", tmp_path / name, ignore=lambda *_: ["eval"])
    settings = tmp_path / "talker/tokenizer/tokenizer_config.json"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": template}))
    said, plainly = drawn("plain")
    assert "note: the model has no chat template; the prompt format is chat plain instead" in said
    said, talked = drawn("talker")
    assert "no chat template" not in said
    assert (plainly["prompt_format"], talked["prompt_format"]) == ("chat plain", "chat")
    assert plainly["prompts_sha256"] != talked["prompts_sha256"]


def test_a_second_call_trains_and_samples_nothing(folder):
    checkpoint = max((folder / "runs/short/checkpoints").iterdir())
    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    samples = (results(folder) / "samples.jsonl").stat().st_mtime_ns
    run(folder, "train", "short.toml")
    run(folder, "sample", "runs/short", "--benchmark", "tasks.jsonl", "--num-samples", 2,
        "--temperature", 0.8, "--max-new-tokens", 40)  # fmt: skip
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before
    assert (results(folder) / "samples.jsonl").stat().st_mtime_ns == samples


CHOOSING = ("auto", "tree")  # may never draft as far as they could


def test_speculative_decoding_is_identical_to_plain_on_trained_heads(folder):
    record = json.loads((folder / "runs/short/decode-humaneval.json").read_text())
    assert [row["drafts"] for row in record["rows"]] == [0, 1, 2, 3, 3, 3]
    for row in record["rows"]:
        assert row["identical_outputs"] == record["prompts"]["count"] == 3
        assert len(row["acceptance_by_offset"]) == row["drafts"] or row["mode"] in CHOOSING
    plain, *_, longest, auto, tree = record["rows"]
    assert (auto["mode"], tree["mode"]) == CHOOSING
    assert plain["tokens_per_forward"] == 1
    assert longest["tokens_per_forward"] > 1


def test_the_report_shows_the_scores(folder):
    out = run(folder, "report", "runs/short")
    page = (folder / "report/index.html").read_text()
    assert str(folder / "report/index.html") in out
    assert "pass@1" in page
    assert "tokens per forward" in page.lower()


def test_peek_shows_a_column_for_each_head(folder):
    out = run(folder, "peek", "def fib(n):", "--run", "runs/short")
    for offset in range(1, 5):
        assert f"offset {offset}" in out


def test_the_gate_passes_a_run_against_itself_and_catches_a_drop(folder):
    scores = results(folder) / "scores.json"
    run(folder, "baseline", scores, "--out", "baseline.json")
    done = mtp_code("gate", scores, "--baseline", "baseline.json", "--summary", "s.md", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "pass@1" in (folder / "s.md").read_text()
    better = json.loads((folder / "baseline.json").read_text())
    better["tasks"] = {task: [n, n] for task, (n, _) in better["tasks"].items()}
    better["verdicts"] = {task: "P" * n for task, (n, _) in better["tasks"].items()}
    better["samples_sha256"] = "0" * 64
    (folder / "better.json").write_text(json.dumps(better))
    done = mtp_code("gate", scores, "--baseline", "better.json", cwd=folder)
    assert done.returncode == 1, done.stdout
    gone, _ = better["tasks"].popitem()
    for by_task in better.values():
        if isinstance(by_task, dict):
            by_task.pop(gone, None)
    (folder / "other.json").write_text(json.dumps(better))
    assert "number of samples of micro/" in complaint(
        mtp_code("gate", scores, "--baseline", "other.json", cwd=folder), 3
    )


def test_other_sampling_settings_in_the_same_folder_are_refused(folder):
    done = mtp_code(
        "sample", "runs/short", "--benchmark", "tasks.jsonl", "--num-samples", 2,
        "--temperature", 0.3, "--max-new-tokens", 40, cwd=folder,
    )  # fmt: skip
    assert "temperature 0.8, not 0.3" in complaint(done, 2)


def test_an_unfinished_sampling_goes_on_where_it_stopped(folder, tmp_path):
    settings = ("--num-samples", 2, "--temperature", 0.8, "--max-new-tokens", 40)
    command = ("sample", "runs/short", "--benchmark", "tasks.jsonl", *settings, "--out")
    run(folder, *command, tmp_path / "again")
    whole = (tmp_path / "again/samples.jsonl").read_bytes()
    assert whole == (results(folder) / "samples.jsonl").read_bytes()
    # As a kill leaves it: some lines in any order, the last one cut off.
    lines = whole.splitlines(keepends=True)
    (tmp_path / "again/samples.jsonl").unlink()
    (tmp_path / "again/samples.jsonl.partial").write_bytes(
        b"".join(reversed(lines[3:7])) + lines[0][:20]
    )
    run(folder, *command, tmp_path / "again")
    assert (tmp_path / "again/samples.jsonl").read_bytes() == whole
