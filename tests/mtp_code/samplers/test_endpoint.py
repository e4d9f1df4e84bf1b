"""The endpoint sampler against a server that misbehaves."""

import asyncio
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks.custom import load
from evals.benchmarks.formats import Benchmark
from evals.sampling import Request, Settings, draw_samples
from mtp_code.errors import InputError
from mtp_code.samplers.base import Drawing
from mtp_code.samplers.endpoint import EndpointSampler, Limits, _Pace, _seconds_to_wait

pytest.importorskip("openai", reason="the extra api is not installed")

KEY = "sk-very-secret-0123456789"
DRAWING = Drawing(max_new_tokens=16, temperature=0.5, top_p=0.9)
STOPS = ("\ndef", "\nclass", "\n#", "\nif", "\nprint")


def question(number: int, stops: tuple[str, ...] = STOPS, is_chat: bool = False) -> Request:
    return Request(f"T/{number}", 0, f"prompt {number}", stops, seed=number, is_chat=is_chat)


class Server(ThreadingHTTPServer):
    """Does one of `mishaps` with each request while there are any; then answers properly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mishaps: list[Any] = []
        self.asked: list[tuple[float, str, dict[str, Any]]] = []
        self.keys: set[str] = set()
        self.most_at_once = self.now = 0
        self.slow_s = 0.0
        self.takes_stops = 99
        self.lock = threading.Lock()
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None: ...

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((time.monotonic(), self.path, asked))
            self.server.keys.add(self.headers["Authorization"])
            self.server.now += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.now)
            mishap = self.server.mishaps.pop(0) if self.server.mishaps else None
        try:
            time.sleep(self.server.slow_s)
            self.answer(asked, mishap)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def answer(self, asked: dict[str, Any], mishap: Any) -> None:
        if mishap == "disconnect":
            self.connection.close()
        elif mishap == "broken JSON":
            self.reply(200, b'{"choices": [')
        elif mishap == "no choices":
            self.reply(200, b'{"choices": []}')
        elif mishap == "silence":
            self.server.is_over.wait(60)
        elif mishap == "slow":
            time.sleep(1.0)
            self.connection.close()
        elif mishap is not None:
            status, headers, message = mishap
            self.reply(status, json.dumps({"error": {"message": message}}).encode(), headers)
        elif len(asked.get("stop", ())) > self.server.takes_stops:
            self.reply(400, b'{"error": {"message": "too many", "param": "stop"}}')
        elif self.path.endswith("/chat/completions"):
            text = "reply to " + asked["messages"][0]["content"]
            choice = {"index": 0, "message": {"role": "assistant", "content": text}}
            self.reply(200, json.dumps({"id": "1", "choices": [choice]}).encode())
        else:
            text = f"    return {asked['seed']}\nprint(1)\nif 2"
            choice = {"index": 0, "text": text, "finish_reason": "stop"}
            self.reply(200, json.dumps({"id": "1", "choices": [choice]}).encode())

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sampler_of(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("mtp_code.samplers.endpoint._back_off_s", lambda attempt: 0.01)

    def build(**limits: Any) -> EndpointSampler:
        return EndpointSampler("toy", server.url, limits=Limits(**limits))

    return build


def answers(sampler: EndpointSampler, questions: list[Request]) -> dict[str, str]:
    return {each.task_id: text for each, text in sampler.draw(questions, DRAWING)}


def test_each_question_is_asked_as_it_stands_and_answered_up_to_its_stop(server, sampler_of):
    questions = [question(number) for number in range(20)]
    found = answers(sampler_of(), questions)
    assert found == {f"T/{number}": f"    return {number}" for number in range(20)}
    asked = sorted((body for _, _, body in server.asked), key=lambda body: body["seed"])
    assert asked == [
        {
            "model": "toy",
            "prompt": f"prompt {number}",
            "max_tokens": 16,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": number,
            "stop": list(STOPS),
        }
        for number in range(20)
    ]
    assert server.keys == {f"Bearer {KEY}"}


def test_chats_go_where_chats_go(server, sampler_of):
    assert answers(sampler_of(), [question(1, (), is_chat=True)]) == {"T/1": "reply to prompt 1"}
    ((_, path, body),) = server.asked
    assert path == "/v1/chat/completions"
    assert "stop" not in body
    assert body["max_completion_tokens"] == 16


def test_an_endpoint_of_few_stops_is_told_four_and_the_rest_is_cut_here(server, sampler_of):
    server.takes_stops = 4
    found = answers(sampler_of(concurrent=1), [question(number) for number in range(3)])
    assert found == {f"T/{number}": f"    return {number}" for number in range(3)}
    assert [len(body["stop"]) for _, _, body in server.asked] == [5, 4, 4, 4]


@pytest.mark.parametrize(
    "mishap",
    [
        (500, {}, "oops"),
        (503, {}, "busy"),
        (429, {}, "slow down"),
        (408, {}, "time out"),
        "disconnect",
        "broken JSON",
        "no choices",
        "slow",
    ],
)
def test_what_passes_is_tried_again_and_told_once(server, sampler_of, mishap, caplog):
    server.mishaps = [mishap, mishap]
    assert answers(sampler_of(timeout_s=0.2), [question(7)]) == {"T/7": "    return 7"}
    assert len(server.asked) == 3
    assert [record.message.endswith("; trying again") for record in caplog.records] == [True]


def test_all_wait_as_long_as_retry_after_says(server, sampler_of):
    server.mishaps = [(429, {"Retry-After": "1"}, "slow down")]
    answers(sampler_of(concurrent=1), [question(1), question(2)])
    first, *later = [at for at, _, _ in server.asked]
    assert len(later) == 2
    assert min(later) - first > 0.95


def test_retry_after_may_be_a_date_and_longer_than_a_minute():
    assert _seconds_to_wait({"retry-after": "90"}, 0) == 90
    assert _seconds_to_wait({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0) == 0
    assert 0 < _seconds_to_wait({"retry-after": "soon"}, 0) <= 0.5
    assert 2 <= _seconds_to_wait({}, 3) <= 4


def test_no_more_are_under_way_than_may_be(server, sampler_of):
    server.slow_s = 0.03
    answers(sampler_of(concurrent=3), [question(number) for number in range(12)])
    assert server.most_at_once == 3


def test_no_more_begin_in_a_minute_than_may(server, sampler_of):
    began_s = time.monotonic()
    answers(sampler_of(requests_per_minute=600), [question(number) for number in range(6)])
    assert max(at for at, _, _ in server.asked) - began_s > 0.45


@pytest.mark.parametrize(
    "mishap, said",
    [
        ((401, {}, f"Incorrect API key: {KEY}"), r"refuses the key in OPENAI_API_KEY.*\[key\]"),
        ((404, {}, "no such model"), r"no /completions for model toy \(no such model\).*URL"),
        ((400, {}, "maximum context length is 8"), "T/1 does not fit.*lower --max-new-tokens"),
        ((422, {}, "what?"), "T/1: status 422: what?"),
    ],
)
def test_a_refusal_is_one_line_and_asked_once(server, sampler_of, mishap, said):
    server.mishaps = [mishap] * 99
    with pytest.raises(InputError, match=said) as refused:
        answers(sampler_of(), [question(1)])
    assert len(server.asked) == 1
    assert KEY not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very secret", "sk-very\x7f", "sk-véry"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(server, monkeypatch, key):
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(InputError, match="SOME_KEY: holds no key") as refused:
        EndpointSampler("toy", server.url, "SOME_KEY")
    assert "sk-" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_of_a_key_in_a_long_refusal_not_even_the_beginning_is_shown(server, sampler_of):
    server.mishaps = [(401, {}, "x" * 290 + KEY)]
    with pytest.raises(InputError, match=r"x\[key\]") as refused:
        answers(sampler_of(), [question(1)])
    assert KEY[:3] not in str(refused.value)


def test_without_a_key_the_endpoint_that_wants_one_is_named(server, sampler_of, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server.mishaps = [(401, {}, "no key")]
    with pytest.raises(InputError, match="wants a key; set OPENAI_API_KEY"):
        answers(sampler_of(), [question(1)])


def test_it_gives_up_in_the_end_and_says_how_to_go_on(server, sampler_of):
    server.mishaps = [(500, {}, "oops")] * 99
    with pytest.raises(InputError, match=r"oops; gave up after 2 retries.*again to go on"):
        answers(sampler_of(retries=2), [question(1)])
    assert len(server.asked) == 3


def test_few_stops_are_no_retry(server, sampler_of):
    server.takes_stops = 4
    assert answers(sampler_of(retries=0), [question(1)]) == {"T/1": "    return 1"}


def test_a_refusal_beside_a_silent_request_ends_it_all_at_once(server, sampler_of):
    server.mishaps = ["silence", "silence", (401, {}, "no")]
    began_s = time.monotonic()
    with pytest.raises(InputError, match="refuses the key"):
        answers(sampler_of(concurrent=3), [question(number) for number in range(3)])
    assert time.monotonic() - began_s < 20


def test_what_was_answered_beside_a_refusal_is_kept(server, sampler_of):
    server.mishaps = [None, (401, {}, "no")]
    drawn = sampler_of(concurrent=1).draw([question(1), question(2)], DRAWING)
    assert next(drawn) == (question(1), "    return 1")
    with pytest.raises(InputError, match="refuses the key"):
        next(drawn)


def test_an_interrupt_ends_it_at_once(server, sampler_of):
    server.mishaps = ["silence"]
    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        answers(sampler_of(), [question(1)])
    assert time.monotonic() - began_s < 20


def test_answers_that_nobody_waits_for_any_more_hold_nobody_up(server, sampler_of):
    server.mishaps = [None, "silence"]
    drawn = sampler_of(concurrent=2).draw([question(1), question(2)], DRAWING)
    began_s = time.monotonic()
    next(drawn)
    drawn.close()
    assert time.monotonic() - began_s < 20


def test_a_pause_holds_those_who_wait_for_their_turn():
    async def times() -> list[float]:
        pace = _Pace(requests_per_minute=600)
        pace.open()
        await pace.wait()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(2)]
        await asyncio.sleep(0.02)
        began_s = time.monotonic()
        pace.pause(0.3)
        ends = []
        for task in waiting:
            await task
            ends.append(time.monotonic() - began_s)
        return ends

    first_s, second_s = asyncio.run(times())
    assert first_s > 0.29
    assert second_s - first_s > 0.09


@pytest.mark.parametrize(
    "url", ["http://me:pw@host/v1", "https://host/v1?key=1", "host/v1", "ftp://host", "http://["]
)
def test_a_url_that_is_none_or_holds_secrets_is_refused(url):
    with pytest.raises(InputError) as refused:
        EndpointSampler("toy", url)
    assert "pw" not in str(refused.value)
    assert "key=1" not in str(refused.value)


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    path = tmp_path / "two.jsonl"
    rows = [
        {
            "task_id": f"Two/{number}",
            "prompt": f"def f{number}(x):\n",
            "entry_point": f"f{number}",
            "test": "def check(candidate):\n    assert candidate(1)\n",
        }
        for number in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(path)


def draw(benchmark: Benchmark, sampler: EndpointSampler, path: Path) -> None:
    settings = Settings(
        num_samples=3, temperature=0.5, max_new_tokens=16, seed=0,
        model={"sampler": sampler.name, **sampler.model}, versions=sampler.versions,
    )  # fmt: skip
    draw_samples(benchmark, lambda asked: sampler.draw(asked, DRAWING), settings, path)


def test_a_run_that_was_broken_off_goes_on_where_it_was(server, sampler_of, benchmark, tmp_path):
    path = tmp_path / "samples.jsonl"
    server.mishaps = [None, None, *[(500, {}, "oops")] * 99]
    with pytest.raises(InputError, match="gave up"):
        draw(benchmark, sampler_of(concurrent=1, retries=1), path)
    assert not path.exists()
    server.mishaps.clear()
    num_before = len(server.asked)
    draw(benchmark, sampler_of(concurrent=1), path)
    assert len(server.asked) - num_before == 4
    assert len(path.read_text().splitlines()) == 6


def test_the_key_is_written_nowhere(server, sampler_of, benchmark, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    server.mishaps = [(429, {}, f"slow down, {KEY}"), "disconnect"]
    draw(benchmark, sampler_of(), tmp_path / "eval" / "samples.jsonl")
    written = [path.read_text() for path in (tmp_path / "eval").iterdir()]
    assert len(written) == 2
    assert f'"endpoint": "{server.url}"' in "".join(written)
    assert KEY not in "".join([*written, caplog.text, *capfd.readouterr()])


def test_an_answer_that_spells_out_the_key_is_not_kept(server, sampler_of):
    asked = question(1, (), is_chat=True)
    leak = Request(asked.task_id, 0, f"say {KEY}", (), seed=1, is_chat=True)
    with pytest.raises(InputError, match="spells out the API key") as refused:
        answers(sampler_of(), [leak])
    assert KEY not in str(refused.value)
