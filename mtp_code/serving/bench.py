"""A server with clients against the engine alone, on the same requests, in one run."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.devices import DeviceName, DtypeName
from mtp_code.errors import MachineError
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import build_model
from mtp_code.run_folder import TrainedModel, write_import
from mtp_code.tokenizer import END_OF_TEXT, Tokenizer, train_bpe

_MODEL: Final = "bench"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Took:
    """What a round took, of the clock and of the CPUs.

    Attributes:
        engine_cpu_s: of the process that decodes.
        cpu_s: of all processes but the clients'.
    """

    wall_s: float
    engine_cpu_s: float
    cpu_s: float
    clients_cpu_s: float = 0.0


@dataclass
class Way:
    """One way to have the requests answered."""

    name: str
    took: list[Took] = field(default_factory=list)
    """In each round."""
    texts: list[str] = field(default_factory=list)
    """Of the latest round."""

    def all(self, name: str) -> list[float]:
        return [float(getattr(one, name)) for one in self.took]


def measure(
    run_dir: Path,
    trained: TrainedModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    num_clients: int,
    num_drafts: int,
    num_rounds: int,
    num_threads: int,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row for the engine alone and for the server, with whole and with streamed responses.

    Greedy. The engine has as many rows as there are clients, each of which asks again as soon as
    it is answered; alone, it has all requests from the start. All ways answer all prompts in
    every round, in turn first. Clients are the official one, in a process beside the server's.

    Ratios are medians over rounds of what the engine alone took ÷ what this way took:
    `throughput` by the clock, which needs a core for the engine and another for HTTP and clients;
    `throughput_of_engine` by the CPU time of the process that decodes, and `throughput_of_cpu` by
    that of the server's processes together, which other programs on the machine disturb less.

    Args:
        run_dir: what the server loads.
        trained: the same, for the engine alone: it is there twice, once in each process.
        device, dtype: of the server, as they were of `trained`.
    """
    engine = Engine.load(run_dir, num_clients, num_drafts, trained)
    requests = [
        Request(engine.tokenizer.encode_prompt(prompt), max_new_tokens) for prompt in prompts
    ]
    ways = [Way("engine"), Way("server, whole"), Way("server, streamed")]
    num_tokens = 0
    with (
        _server(run_dir, num_clients, num_drafts, num_threads, device, dtype) as (pid, port),
        _clients(port, num_clients) as ask,
    ):
        for number in range(-1, num_rounds):  # the first is slow, and not counted
            turn = max(number, 0) % len(ways)
            for way in ways[turn:] + ways[:turn]:
                if way is ways[0]:
                    wall_s, cpu_s = time.perf_counter(), time.process_time()
                    generated = engine.generate(requests)
                    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
                    took = Took(wall_s, cpu_s, cpu_s)
                    if errors := [c.error for c in generated.completions if c.error is not None]:
                        raise MachineError(errors[0])
                    num_tokens = generated.stats.num_tokens
                    way.texts = [engine.tokenizer.decode(c.tokens) for c in generated.completions]
                else:
                    before = _cpu_s(pid)
                    answered = ask(
                        {
                            "prompts": list(prompts),
                            "model": _MODEL,
                            "max_new_tokens": max_new_tokens,
                            "is_streamed": way is ways[2],
                        }
                    )
                    all_s, engine_s = (
                        now - then for now, then in zip(_cpu_s(pid), before, strict=True)
                    )
                    took = Took(answered["wall_s"], engine_s, all_s, answered["cpu_s"])
                    way.texts = answered["texts"]
                if number >= 0:
                    way.took.append(took)
            on_progress(max(number + 1, 0), num_rounds)
    return [_row(way, ways[0], num_tokens) for way in ways]


def write_untrained(folder: Path, config: ModelConfig, texts: Iterable[str]) -> None:
    """A run folder of a shape that nobody has trained: random weights, every token a word.

    Args:
        texts: the tokenizer is trained on; tokens that they do not suffice for are made up.
    """
    trained = train_bpe(texts, config.vocab_size)
    definition = json.loads(trained.definition)
    words = {f"word{number}": number for number in range(trained.vocab_size, config.vocab_size)}
    definition["model"]["vocab"] |= words
    tokenizer = Tokenizer(json.dumps(definition), END_OF_TEXT)
    weights = dict(build_model(config, seed=0).named_parameters())
    write_import(folder, folder.name, {"from": "random weights"}, config, weights, tokenizer)


@contextmanager
def _server(
    run_dir: Path,
    num_rows: int,
    num_drafts: int,
    num_threads: int,
    device: DeviceName,
    dtype: DtypeName,
) -> Iterator[tuple[int, int]]:
    """A server of its own process; its pid and port."""
    options = {
        "--port": 0,
        "--name": _MODEL,
        "--batch-rows": num_rows,
        "--drafts": num_drafts,
        "--num-threads": num_threads,
        "--device": device,
        "--dtype": dtype,
    }
    given = [str(part) for option in options.items() for part in option]
    process = subprocess.Popen(
        [sys.executable, "-m", "mtp_code.cli", "serve", str(run_dir), *given],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = next((line for line in process.stderr if line.rstrip().endswith("/v1")), None)
        if line is None:
            raise MachineError("the server did not start; try mtp-code serve on the same run")
        # Read on, or a server that has much to say would wait for a reader.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process.pid, int(line.rsplit(":", 1)[1].partition("/")[0])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _clients(port: int, num_clients: int) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Clients in a process of their own; what has them ask (see `clients.ask_all`)."""
    url = f"http://127.0.0.1:{port}/v1"
    with subprocess.Popen(
        [sys.executable, "-m", "mtp_code.serving.clients", url, str(num_clients)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask(asked: dict[str, Any]) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            answered = process.stdout.readline()
            assert answered, "a client failed: what it took would be no figure"
            return json.loads(answered)  # type: ignore[no-any-return]

        yield ask


def _cpu_s(pid: int) -> tuple[float, float]:
    """What a server's processes have used so far: all of them, and those below the first alone,
    of which the engine's is the only one that does anything."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    engine_s = sum(_own_cpu_s(int(child)) for child in children)
    return _own_cpu_s(pid) + engine_s, engine_s


def _own_cpu_s(pid: int) -> float:
    """In user and system mode."""
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    fields = rest.split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _row(way: Way, engine: Way, num_tokens: int) -> dict[str, Any]:
    def ratios(name: str) -> list[float]:
        pairs = zip(engine.all(name), way.all(name), strict=True)
        return [alone / max(own, 1 / _TICKS_PER_S) for alone, own in pairs]

    by_clock = ratios("wall_s")
    return {
        "way": way.name,
        "tokens_a_round": num_tokens,
        "wall_s": way.all("wall_s"),
        "engine_cpu_s": way.all("engine_cpu_s"),
        "cpu_s": way.all("cpu_s"),
        "clients_cpu_s": way.all("clients_cpu_s"),
        "tokens_per_s": num_tokens / statistics.median(way.all("wall_s")),
        "throughput": statistics.median(by_clock),
        "throughput_low": min(by_clock),
        "throughput_high": max(by_clock),
        "throughput_of_engine": statistics.median(ratios("engine_cpu_s")),
        "throughput_of_cpu": statistics.median(ratios("cpu_s")),
        "identical_outputs": sum(
            ours == theirs for ours, theirs in zip(way.texts, engine.texts, strict=True)
        ),
    }
