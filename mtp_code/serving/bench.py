"""A server with clients against the engine alone, on the same requests, in one run."""

import http.client
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.errors import MachineError
from mtp_code.run_folder import TrainedModel

_MODEL: Final = "bench"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Way:
    """One way to have the requests answered, and what it took in each round."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of the process that decodes: clients have one of their own."""
    texts: list[str] = field(default_factory=list)
    """Of the latest round."""


def measure(
    run_dir: Path,
    trained: TrainedModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    num_clients: int,
    num_drafts: int,
    num_rounds: int,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row for the engine alone and for the server, with whole and with streamed responses.

    Greedy. The engine has as many rows as there are clients, each of which asks again as soon as
    it is answered; alone, it has all requests from the start. All ways answer all prompts in
    every round, in turn first. `throughput` is the median over rounds of the engine's wall time ÷
    this way's, `throughput_of_cpu` the same of the CPU time of the process that decodes, which
    other programs on the machine disturb less.

    Args:
        run_dir: what the server loads.
        trained: the same, for the engine alone.
    """
    engine = Engine.load(run_dir, num_clients, num_drafts, trained)
    requests = [
        Request(engine.tokenizer.encode_prompt(prompt), max_new_tokens) for prompt in prompts
    ]
    ways = [Way("engine"), Way("server, whole"), Way("server, streamed")]
    num_tokens = 0
    with _server(run_dir, num_clients, num_drafts, num_threads) as (pid, port):
        for number in range(-1, num_rounds):  # the first is slow, and not counted
            turn = max(number, 0) % len(ways)
            for way in ways[turn:] + ways[:turn]:
                wall_s, cpu_s = time.perf_counter(), _cpu_s(pid)
                if way is ways[0]:
                    cpu_s = time.process_time()
                    generated = engine.generate(requests)
                    num_tokens = generated.stats.num_tokens
                    took_cpu_s = time.process_time() - cpu_s
                    way.texts = [engine.tokenizer.decode(c.tokens) for c in generated.completions]
                else:
                    is_streamed = way is ways[2]
                    way.texts = _ask_all(port, prompts, max_new_tokens, num_clients, is_streamed)
                    took_cpu_s = _cpu_s(pid) - cpu_s
                if number >= 0:
                    way.wall_s.append(time.perf_counter() - wall_s)
                    way.cpu_s.append(took_cpu_s)
            on_progress(max(number + 1, 0), num_rounds)
    return [_row(way, ways[0], num_tokens) for way in ways]


@contextmanager
def _server(
    run_dir: Path, num_rows: int, num_drafts: int, num_threads: int
) -> Iterator[tuple[int, int]]:
    """A server of its own process; its pid and port."""
    options = {
        "--port": 0,
        "--name": _MODEL,
        "--batch-rows": num_rows,
        "--drafts": num_drafts,
        "--num-threads": num_threads,
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


def _ask_all(
    port: int, prompts: Sequence[str], max_new_tokens: int, num_clients: int, is_streamed: bool
) -> list[str]:
    """The answers, by clients that keep their connections and ask one after the other."""
    places: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(prompts)):
        places.put(place)
    texts: dict[int, str] = {}

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            try:
                place = places.get_nowait()
            except queue.Empty:
                connection.close()
                return
            asked = {
                "model": _MODEL,
                "prompt": prompts[place],
                "max_tokens": max_new_tokens,
                "temperature": 0,
                "stream": is_streamed,
            }
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(asked), headers)
            response = connection.getresponse()
            read = _streamed_text if is_streamed else _whole_text
            texts[place] = read(response)

    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(texts) == len(prompts), "a client failed: what it took would be no figure"
    return [texts[place] for place in range(len(prompts))]


def _whole_text(response: http.client.HTTPResponse) -> str:
    return str(json.loads(response.read())["choices"][0]["text"])


def _streamed_text(response: http.client.HTTPResponse) -> str:
    events = (line.removeprefix(b"data: ") for line in response)
    return "".join(
        json.loads(event)["choices"][0]["text"] for event in events if event.startswith(b"{")
    )


def _cpu_s(pid: int) -> float:
    """What a process has used so far, in user and system mode."""
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    fields = rest.split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _row(way: Way, engine: Way, num_tokens: int) -> dict[str, Any]:
    ratios = [alone / own for alone, own in zip(engine.wall_s, way.wall_s, strict=True)]
    of_cpu = [alone / own for alone, own in zip(engine.cpu_s, way.cpu_s, strict=True)]
    return {
        "way": way.name,
        "tokens_a_round": num_tokens,
        "wall_s": way.wall_s,
        "cpu_s": way.cpu_s,
        "tokens_per_s": num_tokens / statistics.median(way.wall_s),
        "throughput": statistics.median(ratios),
        "throughput_low": min(ratios),
        "throughput_high": max(ratios),
        "throughput_of_cpu": statistics.median(of_cpu),
        "identical_outputs": sum(
            ours == theirs for ours, theirs in zip(way.texts, engine.texts, strict=True)
        ),
    }
