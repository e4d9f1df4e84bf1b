"""`sample` with each of the samplers, as a terminal has it."""

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtp_code.decoding.engine import Engine
from mtp_code.run_folder import load_run
from mtp_code.tokenizer import BytesTokenizer
from tests.commands import Done, complaint, mtp_code
from tests.mtp_code.interop.runs import write_run
from tests.mtp_code.serving.conftest import Served, serving

TASKS = [
    {
        "task_id": f"Two/{number}",
        "prompt": f"def f{number}(x):\n    return",
        "entry_point": f"f{number}",
        "test": "def check(candidate):\n    assert candidate(1)\n",
    }
    for number in range(2)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A run, its export, and two tasks."""
    folder = tmp_path_factory.mktemp("models")
    write_run(folder / "run", BytesTokenizer())
    assert mtp_code("export", "run", "--out", "exported", cwd=folder).returncode == 0
    (folder / "two.jsonl").write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    return folder


def sample(models: Path, cwd: Path, model: object, *options: object, **environment: str) -> Done:
    asked = ("--benchmark", models / "two.jsonl", "--max-new-tokens", 12)
    return mtp_code("sample", model, *asked, *options, cwd=cwd, **environment)


def told(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Who is said to have answered, and the answers by task."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    settings = json.loads((folder / "sampling.json").read_text())
    return settings["model"], {one["task_id"]: one["completion"] for one in map(json.loads, lines)}


@pytest.fixture
def served(models: Path) -> Iterator[Served]:
    """The run behind an endpoint."""
    with serving(Engine.load(models / "run", num_rows=2)) as served:
        yield served


@pytest.fixture(scope="module")
def ours(models: Path) -> dict[str, str]:
    done = sample(models, models, "run")
    assert done.returncode == 0, done.stderr
    who, answers = told(models / "run" / "eval" / "two")
    assert (who["sampler"], who["run"]) == ("mtp", "small")
    assert len(set(answers.values())) == 2
    return answers


@pytest.mark.parametrize(
    "sampler, folder, who",
    [
        ("mtp", "exported", {"model": "exported", "num_mtp_heads": 4}),
        ("mtp", "exported/main", {"model": "main", "num_mtp_heads": 1}),
        ("transformers", "exported/main", {"dtype": "float32"}),
    ],
)
def test_an_export_answers_as_its_run_does(models, ours, tmp_path, sampler, folder, who):
    before = sorted(models.glob("exported/**/*"))
    done = sample(models, tmp_path, models / folder, "--sampler", sampler)
    assert done.returncode == 0, done.stderr
    (samples,) = (tmp_path / "runs").rglob("samples.jsonl")
    assert str(samples.relative_to(tmp_path)) in done.stdout
    found, answers = told(samples.parent)
    assert answers == ours
    assert found.items() >= ({"sampler": sampler} | who).items()
    assert sorted(models.glob("exported/**/*")) == before  # it belongs to somebody else


def test_an_endpoint_is_asked_for_what_is_missing_and_told_a_key(models, ours, tmp_path, served):
    url = f"{served.url}/v1"
    asked = ("small", "--sampler", "openai", "--endpoint", url, "--out", tmp_path / "out")
    key = {"MY_KEY": "sk-never-to-be-seen"}
    for _ in range(2):  # the second time all is there
        done = sample(models, tmp_path, *asked, "--api-key-env", "MY_KEY", **key)
        assert done.returncode == 0, done.stderr
    who, answers = told(tmp_path / "out")
    assert answers == ours
    assert who == {"sampler": "openai", "model": "small", "endpoint": url}
    assert served.metric("request_success_total") == 2
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"never-to-be-seen" not in written
    assert "never-to-be-seen" not in done.stderr + done.stdout
    line = complaint(sample(models, tmp_path, "big", *asked[1:5]), 2)
    assert f"{url}: has no /completions for model big" in line


class FakeVllm:
    """Answers as vLLM's offline engine does, with what the run answers; ends at a token."""

    def __init__(self, folder: Path) -> None:
        self.told: list[dict[str, Any]] = []
        trained = load_run(folder)
        fake = self

        class LLM:
            def __init__(self, **told: Any) -> None:
                fake.told.append(told)
                config = SimpleNamespace(
                    hf_config=None, max_model_len=trained.model.config.context, dtype="float32"
                )
                self.llm_engine = SimpleNamespace(model_config=config)

            def generate(self, prompts: Any, settings: Any, use_tqdm: bool) -> list[Any]:
                return [self._answer(*asked) for asked in zip(prompts, settings, strict=True)]

            def _answer(self, prompt: dict[str, list[int]], settings: Any) -> Any:
                from mtp_code.decoding.plain import decode_plain
                from mtp_code.decoding.requests import Request

                request = Request(prompt["prompt_token_ids"], settings.max_tokens)
                (found,) = decode_plain(trained.model, trained.tokenizer, [request])
                tokens = [*found.tokens, ord("!")]  # say that it ended there
                answer = SimpleNamespace(token_ids=tokens, finish_reason="stop", stop_reason=33)
                return SimpleNamespace(outputs=[answer])

        self.LLM = LLM
        self.SamplingParams = SimpleNamespace
        self.is_on_cpu = True
        platform = SimpleNamespace(is_cpu=lambda: fake.is_on_cpu)
        self.platforms = SimpleNamespace(current_platform=platform)


@pytest.fixture
def vllm(models: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    fake = FakeVllm(models / "run")
    monkeypatch.setitem(sys.modules, "vllm", fake)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "vllm.platforms", fake.platforms)  # type: ignore[arg-type]
    monkeypatch.setattr("mtp_code.interop.vllm.installed_version", lambda: "0.32.0")
    return fake


def test_vllm_is_told_of_the_heads_and_its_last_token_is_none_of_the_answer(
    models, ours, tmp_path, vllm
):
    main, heads = models / "exported" / "main", models / "exported" / "heads"
    options = ("--sampler", "vllm", "--heads", heads, "--batch-rows", 3)
    done = sample(models, tmp_path, main, *options, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    who, answers = told(tmp_path / "out")
    assert answers == ours
    assert who["sampler"] == "vllm"
    assert len(who["heads"]) == 64
    (asked,) = vllm.told
    assert asked["speculative_config"]["model"] == str(heads)
    assert (asked["model"], asked["dtype"], asked["max_num_seqs"]) == (str(main), "float32", 3)
    assert asked["trust_remote_code"] is False


def test_a_temperature_that_vllm_would_lose_is_refused(models, tmp_path, vllm):
    """Of drafted positions, on a CPU: docs/vllm.md."""
    main, heads = models / "exported" / "main", models / "exported" / "heads"
    asked = (models, tmp_path, main, "--sampler", "vllm", "--temperature", 0.8)
    line = complaint(sample(*asked, "--heads", heads, "--out", tmp_path / "no"), 3)
    assert "leave --heads out, or sample with --temperature 0" in line
    assert sample(*asked, "--out", tmp_path / "undrafted").returncode == 0
    vllm.is_on_cpu = False
    assert sample(*asked, "--heads", heads, "--out", tmp_path / "on a GPU").returncode == 0


def test_without_vllm_the_extra_is_named(models, tmp_path, monkeypatch):
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    done = sample(models, tmp_path, models / "exported" / "main", "--sampler", "vllm")
    assert "vLLM is not installed; pip install 'mtp-code[vllm]'" in complaint(done, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "model, options, said",
    [
        ("nowhere", (), "nowhere: no run there"),
        ("empty", ("--sampler", "transformers"), "empty: no tokenizer to load"),
        ("./gone", ("--sampler", "transformers"), "./gone: no such folder, and no name on the hub"),
        ("/not/here", ("--sampler", "transformers"), "/not/here: no such folder"),
        ("runs/old/tiny", ("--sampler", "transformers"), "runs/old/tiny: no such folder"),
        ("runs/tiny", ("--sampler", "transformers"), "runs/tiny: no such folder; if it is the hub"),
        ("run", ("--heads", "x"), "--heads: means nothing to --sampler mtp"),
        ("run", ("--revision", "x"), "--revision: means nothing to --sampler mtp"),
        ("run", ("--requests-per-minute", 3), "--requests-per-minute: means nothing to"),
        ("x", ("--sampler", "openai", "--batch-rows", 3), "--batch-rows: means nothing to"),
        ("x", ("--sampler", "openai", "--endpoint", "host"), "--endpoint host: no URL"),
    ],
)
def test_what_does_not_go_together_is_named(models, tmp_path, model, options, said):
    (models / "empty").mkdir(exist_ok=True)
    given = models / model if (models / model).exists() else model
    line = complaint(sample(models, tmp_path, given, *options), 2)
    assert line.removeprefix("mtp-code: ").removeprefix(f"{models}/").startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_sampler_is_refused_with_the_list(models, tmp_path):
    done = sample(models, tmp_path, models / "run", "--sampler", "ours")
    assert done.returncode == 2
    for name in ("mtp", "transformers", "vllm", "openai"):
        assert name in done.stderr


def test_heads_that_are_none_are_refused_before_vllm_loads(models, tmp_path, vllm):
    main = models / "exported" / "main"
    done = sample(models, tmp_path, main, "--sampler", "vllm", "--heads", main)
    assert "heads of architecture ['LlamaForCausalLM']" in complaint(done, 2)
    assert vllm.told == []
