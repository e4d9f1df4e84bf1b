"""What a person at a terminal meets: exit statuses, one-line errors, nothing lost."""

import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mtp_code.cli import _TOPICS, make_app
from tests.commands import complaint, mtp_code, mtp_code_process

pytestmark = pytest.mark.usefixtures("shared_incubators")

SOLVED = {"task_id": "HumanEval/53", "completion": "    return x + y\n"}
WRONG = {"task_id": "HumanEval/53", "completion": "    return x - y\n"}


def write_samples(path: Path, *samples: object) -> Path:
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


def recipe_with_source(folder: Path, source: str, extra: str = "") -> Path:
    path = folder / "mine.toml"
    path.write_text(
        f"""
        [tokenizer]
        kind = "bytes"
        [data.sources.code]
        {source}
        [model]
        width = 16
        num_layers = 2
        num_attn_heads = 2
        ffn_width = 16
        context = 32
        [optim]
        lr = 1e-3
        [schedule]
        num_steps = 2
        [training]
        row_tokens = 16
        rows = 1
        {extra}
        """
    )
    return path


def has_user_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not has_user_namespaces(), reason="this machine gives no user namespaces"
)


def test_without_arguments_it_says_what_it_can_do(tmp_path):
    done = mtp_code_process("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("train", "sample", "judge", "score", "gate", "report", "peek", "bench"):
        assert command in done.stdout


def test_every_command_is_listed_with_a_whole_sentence():
    for lead in ([], ["bench"], ["gate"]):
        done = CliRunner().invoke(make_app(*lead), [*lead, "--help"], terminal_width=80)
        listed = done.output.partition("Commands:")[2].splitlines()[1:]
        assert len(listed) > 1
        assert [line for line in listed if not line.endswith((".", "?"))] == []


def test_the_version_is_said(tmp_path):
    done = mtp_code("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"mtp-code {version('mtp-code')}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "no such command 'trian'; did you mean 'train'?"),
        (["bench", "decod"], "bench: no such command 'decod'; did you mean 'decode'?"),
        (["train"], "train: missing argument 'RECIPE'; see mtp-code train --help"),
        (["gate"], "gate check: missing argument 'SCORES'; see mtp-code gate check --help"),
        (["gate", "self-tst"], "gate: no such command 'self-tst'; did you mean 'self-test'?"),
        (["gate", "a.json"], "gate check: missing option '--baseline'; see mtp-code gate check"),
        (["train", "tiny", "--tokns", "x"], "train: no option --tokns; did you mean --tokens?"),
        (["judge", "s.jsonl", "--benchmark"], "option '--benchmark' requires an argument"),
        (["memory", "tiny", "--gpus", "0"], "memory: invalid value for '--gpus': "),
        (["memory", "tiny", "--on", "cpuu"], "'cpuu' is not one of 'cpu', 'gpu'; see mtp-code"),
        (["memory", "tiny", "more"], "memory: got unexpected extra argument"),
    ],
)
def test_a_wrong_call_is_one_line_too(tmp_path, arguments, expected):
    done = mtp_code(*arguments, cwd=tmp_path)
    assert expected in complaint(done, 2)
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_recipe_key_is_named_with_the_nearest_before_torch_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    done = mtp_code_process("train", "tiny", "--set", "model.num_mtp_head=4", cwd=tmp_path)
    line = complaint(done, 2)
    assert line.endswith("unknown key model.num_mtp_head; did you mean num_mtp_heads?")


def test_a_missing_corpus_is_named(tmp_path):
    recipe = recipe_with_source(tmp_path, 'kind = "folder"\npath = "nowhere"')
    assert "nowhere: no such folder" in complaint(mtp_code("train", recipe, cwd=tmp_path), 2)
    assert not list(tmp_path.glob("tokens/*"))


def test_a_corpus_of_empty_and_undecodable_files_is_refused_with_their_counts(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/empty.py").write_text("")
    (tmp_path / "code/latin.py").write_bytes(b"x = '\xe9\xff'\n")
    recipe = recipe_with_source(tmp_path, 'kind = "folder"\npath = "code"')
    line = complaint(mtp_code("train", recipe, cwd=tmp_path), 2)
    assert "1 left out: empty" in line
    assert "1 left out: undecodable" in line


def test_a_vocabulary_too_large_for_the_shards_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    vocabulary = {f"t{i}": i for i in range(70_000)} | {"<end>": 70_000}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    backend.add_special_tokens(["<end>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("t1\n")
    recipe = recipe_with_source(tmp_path, 'kind = "folder"\npath = "code"')
    settings = ["kind=hugging-face", "name=tokenizer.json", "end_of_text=<end>"]
    overrides = [part for s in settings for part in ("--set", f"tokenizer.{s}")]
    done = mtp_code("prepare", recipe, *overrides, "--set", "model.vocab_size=70001", cwd=tmp_path)
    assert 'uint16 holds 65536 ids, the tokenizer has 70001; set token_type = "uint32"' in (
        complaint(done, 2)
    )


@pytest.mark.usefixtures("needs_sandbox")
def test_samples_in_human_evals_format_are_judged_and_scored(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", SOLVED, WRONG)
    done = mtp_code("judge", samples, "--benchmark", "humaneval", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(v["index"], v["verdict"]) for v in verdicts] == [(0, "passed"), (1, "wrong answer")]
    assert all(verdict["isolation"] == "full" for verdict in verdicts)


@pytest.mark.usefixtures("needs_sandbox")
def test_limits_can_be_set_and_are_kept(tmp_path):
    task = {
        "task_id": "mine/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    while time.process_time() < 0.4: pass\n    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
    }
    tasks = write_samples(tmp_path / "mine.jsonl", task | {"prompt": "import time\ndef f(x):\n"})
    samples = write_samples(
        tmp_path / "s.jsonl", {"task_id": "mine/0", "completion": "    return 'x' * (400 << 20)"}
    )

    def judge(*options):
        options = ("--benchmark", tasks, "--no-cache", *options)
        return mtp_code("judge", samples, *options, cwd=tmp_path)

    assert "(timed out: " in (line := complaint(judge("--cpu-s", 0.2), 2))
    assert "give programs more time (--cpu-s)" in line
    done = judge("--cpu-s", 1.5, "--memory-mb", 256)
    assert done.returncode == 0, done.stderr
    limits = json.loads((tmp_path / "judging.json").read_text())["limits"]
    assert (limits["cpu_s"], limits["wall_s"], limits["memory_bytes"]) == (1.5, 15, 256 << 20)
    (line,) = (tmp_path / "verdicts.jsonl").read_text().splitlines()
    assert json.loads(line)["verdict"] == "out of memory"


@pytest.mark.usefixtures("needs_sandbox")
def test_a_broken_last_line_is_left_out_and_named(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", SOLVED, WRONG)
    with samples.open("a") as file:
        file.write('{"task_id": "HumanEval/1", "compl')
    done = mtp_code("judge", samples, "--benchmark", "humaneval", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "s.jsonl:3" in done.stderr
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 2


def test_an_unknown_task_is_named_with_the_nearest(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", SOLVED, SOLVED | {"task_id": "HumanEval/530"})
    done = mtp_code("judge", samples, "--benchmark", "humaneval", cwd=tmp_path)
    line = complaint(done, 2)
    assert "s.jsonl:2" in line
    assert "HumanEval/530" in line
    assert "did you mean" in line
    assert not (tmp_path / "verdicts.jsonl").exists()


def test_an_unknown_benchmark_is_named_with_the_nearest(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", SOLVED)
    done = mtp_code("judge", samples, "--benchmark", "humanevall", cwd=tmp_path)
    assert "did you mean humaneval?" in complaint(done, 2)


@pytest.mark.usefixtures("needs_sandbox")
def test_k_larger_than_n_is_refused(tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    task = {
        "task_id": "mine/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
    }
    write_samples(tasks, task)
    samples = write_samples(
        tmp_path / "s.jsonl", {"task_id": "mine/0", "completion": "    return x\n"}
    )
    judged = mtp_code("judge", samples, "--benchmark", tasks, cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    verdicts = tmp_path / "verdicts.jsonl"
    line = complaint(mtp_code("score", verdicts, "--benchmark", tasks, "--k", 2, cwd=tmp_path), 2)
    assert "k" in line
    done = mtp_code("score", verdicts, "--benchmark", tasks, cwd=tmp_path)
    assert "pass@1 100.0 %" in done.stdout


@pytest.mark.usefixtures("needs_sandbox")
def test_checks_that_look_into_the_program_are_judged_beside_it_and_called_weak(tmp_path):
    """A task whose test patches input() and looks at code, which no proxy would show."""
    test = (
        "def check(candidate):\n"
        "    global input\n"
        "    input = lambda: 'hello'\n"
        "    assert candidate() == 'HELLO'\n"
        "    assert candidate.__code__.co_argcount == 0\n"
    )
    task = {
        "task_id": "mine/0", "prompt": "def shout():\n", "entry_point": "shout",
        "canonical_solution": "    return input().upper()\n", "test": test,
    }  # fmt: skip
    samples = write_samples(
        tmp_path / "s.jsonl",
        {"task_id": "mine/0", "completion": "    return input().upper()\n"},
        {"task_id": "mine/0", "completion": "    return input()\n"},
        {"task_id": "mine/0", "completion": "    return 'HELLO'\nimport os\nos._exit(0)\n"},
    )
    apart = write_samples(tmp_path / "apart.jsonl", task)
    assert "mine/0" in complaint(mtp_code("judge", samples, "--benchmark", apart, cwd=tmp_path), 2)

    beside = write_samples(tmp_path / "beside.jsonl", task | {"beside": True})
    judged = mtp_code("judge", samples, "--benchmark", beside, cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    rows = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(row["verdict"], row["weak"]) for row in rows] == [
        ("passed", True), ("wrong answer", True), ("exited", True),
    ]  # fmt: skip
    done = mtp_code("score", tmp_path / "verdicts.jsonl", "--benchmark", beside, cwd=tmp_path)
    assert "3 of 3 verdicts weak (checks beside)" in done.stdout
    assert json.loads((tmp_path / "scores.json").read_text())["weak"] == 3

    told = write_samples(tmp_path / "told.jsonl", task | {"beside": "yes"})
    assert "beside" in complaint(mtp_code("judge", samples, "--benchmark", told, cwd=tmp_path), 2)


def test_mbpp_without_its_data_names_the_remedy(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", SOLVED)
    done = mtp_code_process(
        "judge", samples, "--benchmark", "mbpp", cwd=tmp_path,
        MTP_CODE_DATA="", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path),
    )  # fmt: skip
    assert "MTP_CODE_DATA" in complaint(done, 3)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder").mkdir()
    for out in ("taken/micro.jsonl", "folder"):
        line = complaint(mtp_code("micro", "--out", out, cwd=tmp_path), 2)
        assert line.startswith("mtp-code: ")


def test_what_no_file_may_replace_is_refused_before_any_work(tmp_path):
    os.mkfifo(tmp_path / "device")
    for command in (
        ("micro", "--out"),
        ("judge", "none.jsonl", "--benchmark", "none", "--out"),
        ("references", "--benchmark", "none", "--out"),
        ("score", "none.jsonl", "--benchmark", "none", "--out"),
        ("baseline", "none.json", "--out"),
        ("gate", "none.json", "--baseline", "none.json", "--json"),
        ("gate", "none.json", "--baseline", "none.json", "--junit"),
        ("report", "none", "--out"),
        ("bench", "train", "--out"),
    ):
        line = complaint(mtp_code(*command, "device", cwd=tmp_path), 2)
        assert line.startswith("mtp-code: device: a file would take its place"), command
    assert [path.name for path in tmp_path.iterdir()] == ["device"]
    assert (tmp_path / "device").is_fifo()


def test_what_a_file_names_cannot_write_to_the_terminal(tmp_path):
    hostile = "\x1b]0;title\x07\nmtp-code: done\u202e"
    task = {
        "task_id": hostile,
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(near)\n",
    }
    tasks = write_samples(tmp_path / "mine.jsonl", task, task)
    line = complaint(mtp_code("references", "--benchmark", tasks, "--out", "x", cwd=tmp_path), 2)
    assert line.endswith(r"task \x1b]0;title\x07 mtp-code: done\u202e was given before")
    write_samples(tasks, task)
    done = mtp_code("references", "--benchmark", tasks, "--out", "x", cwd=tmp_path)
    (note,) = done.stderr.splitlines()
    assert r"(\x1b]0;title\x07 mtp-code: done\u202e first)" in note
    # Nor can what nobody thought of: here the name of a file.
    missing = mtp_code("judge", "a\x1b[2J\nb", "--benchmark", "humaneval", cwd=tmp_path)
    assert complaint(missing, 2).startswith(r"mtp-code: a\x1b[2J b: ")


def test_a_run_that_is_not_there_is_named(tmp_path):
    line = complaint(mtp_code("peek", "x = 1", "--run", "runs/none", cwd=tmp_path), 2)
    assert "runs/none" in line


@needs_namespaces
def test_a_full_disk_is_one_line_and_earlier_verdicts_stay(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", *[WRONG] * 400)
    script = (
        'mount -t tmpfs -o size=16k none disk && echo earlier > disk/v.jsonl && "$@"; '
        "status=$?; cat disk/v.jsonl; exit $status"
    )
    (tmp_path / "disk").mkdir()
    done = mtp_code_process(
        "judge", samples, "--benchmark", "humaneval", "--out", "disk/v.jsonl",
        "--unsafe-no-sandbox", cwd=tmp_path,
        wrap=("unshare", "-Urm", "bash", "-c", script, "-"),
    )  # fmt: skip
    assert complaint(done, 3).startswith("mtp-code: disk/v.jsonl")
    assert "full; what was finished is kept" in complaint(done, 3)
    assert done.stdout.endswith("earlier\n")


@needs_namespaces
def test_no_user_namespaces_means_nothing_runs_and_a_remedy(tmp_path):
    samples = write_samples(tmp_path / "s.jsonl", SOLVED)
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    forbid = ("unshare", "-Urm", "bash", "-c", script, "-")
    judge = ("judge", samples, "--benchmark", "humaneval", "--no-cache")
    done = mtp_code_process(*judge, cwd=tmp_path, wrap=forbid)
    assert complaint(done, 3).startswith("mtp-code: sandbox: ")
    assert not (tmp_path / "verdicts.jsonl").exists()
    # The only way around is explicit, and every verdict says so.
    done = mtp_code_process(*judge, "--unsafe-no-sandbox", cwd=tmp_path, wrap=forbid)
    assert done.returncode == 0, done.stderr
    (verdict,) = map(json.loads, (tmp_path / "verdicts.jsonl").read_text().splitlines())
    assert (verdict["verdict"], verdict["isolation"]) == ("passed", "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--benchmark", "humaneval*"),
            "benchmark humaneval*: unknown; did you mean humaneval? kno",
        ),
        (
            ("--benchmark", "humaneval", "--prompt-format", "mbpp-3-shot"),
            "prompt format mbpp-3-shot: unknown to humaneval; known: humaneval raw, humaneval",
        ),
        (
            ("--benchmark", "humaneval", "--post-processing", "fenced"),
            "post-processing fenced: unknown to humaneval; did you mean fenced block?",
        ),
    ],
)
def test_an_unknown_benchmark_or_format_is_told_with_those_there_are(tmp_path, options, message):
    done = mtp_code("sample", "nowhere", *options, cwd=tmp_path)
    assert message in complaint(done, 2)


def test_memory_says_what_a_recipe_needs_and_where_it_fits(tmp_path):
    # Five layers of its twelve: a layer of the trunk is like another, and takes time.
    few = ("--set", "model.num_layers=5", "--set", "training.objective.logits_mib=10_000")
    done = mtp_code("memory", "code-130m", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.partition(" | ")[0]: line for line in done.stdout.splitlines()}
    assert "84.5 M = trunk 7.08 M, heads 28.3 M" in lines["parameters"]
    assert "parameters 323 MiB" in lines["peak of memory"]
    assert "  bf16, one process, 16 micro-batches a step of 16 × 2048 tokens" in done.stdout
    assert "141 GB: NVIDIA H200" in lines["fits, a tenth left free"]
    small = ("model.num_mtp_heads=2", "model.num_layers=3", "optim.kind=adamw", "training.rows=8")
    asked = ("memory", "smoke", "--on", "cpu", *(f"--set={setting}" for setting in small))
    other = ("--set", "model.ffn_width=200_000_000", "--set", "training.objective.loss=torch")
    huge = mtp_code(*asked, *other, cwd=tmp_path).stdout
    assert "predicted with loss = chunked: torch holds more" in huge
    assert "  fp32, one process, one micro-batch a step of 8 × " in huge
    assert "fits, a tenth left free | none of the GPUs that we know" in huge
    of_four = mtp_code(*asked, "--gpus", "4", cwd=tmp_path).stdout
    assert "  fp32, each of 4 processes (fsdp), one micro-batch a step of 2 × 256 tokens" in of_four
    assert "no multiple of the 3 processes" in complaint(
        mtp_code(*asked, "--gpus", "3", cwd=tmp_path), 2
    )
    assert "chunked" not in of_four


def test_memory_of_a_recipe_that_is_not_there_is_one_line(tmp_path):
    assert "did you mean 13b" in complaint(mtp_code("memory", "13bn", cwd=tmp_path), 2)


def test_evaluate_takes_what_sample_takes() -> None:
    commands = typer.main.get_command(make_app()).commands
    taken = {
        name: {option.name: (option.opts, option.default) for option in commands[name].params}
        for name in ("sample", "evaluate")
    }
    assert taken["sample"].items() <= taken["evaluate"].items()
    assert taken["evaluate"].keys() - taken["sample"].keys() == {
        "k",
        "if_available",
        "tier",
        "unsafe_no_sandbox",
    }


@pytest.mark.parametrize("topic", _TOPICS)
def test_a_command_is_had_with_those_of_its_module_alone(topic: str) -> None:
    whole = typer.main.get_command(make_app()).commands
    names = _TOPICS[topic]
    assert set(names) == typer.main.get_command(make_app(names[-1])).commands.keys()
    assert set(names) <= whole.keys()
    assert typer.main.get_command(make_app("jugde")).commands.keys() == whole.keys()


def test_help_tells_defaults_that_are_no_values() -> None:
    told = CliRunner().invoke(make_app(), ["sample", "--help"]).stdout
    assert "[default: RUN/eval/BENCHMARK]" in told
