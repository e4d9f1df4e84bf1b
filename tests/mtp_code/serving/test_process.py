"""`mtp-code serve` as a process: signals, keys, addresses."""

import http.client
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtp_code.decoding.prepare import load_for_decoding
from mtp_code.errors import CheckpointError
from mtp_code.serving import bench
from mtp_code.tokenizer import BytesTokenizer
from tests.commands import COMMAND, complaint, mtp_code
from tests.mtp_code.interop.runs import write_run
from tests.mtp_code.serving.conftest import until

STREAMED = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
body = {"model": "run", "prompt": "x", "max_tokens": 6000, "stream": True, "n": 3, "seed": 1}
kind = {"Content-Type": "application/json"}
connection.request("POST", "/v1/completions", json.dumps(body), kind)
response = connection.getresponse()
for line in response:
    print(line.decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "run"
    write_run(folder, BytesTokenizer(), num_layers=2, num_mtp_heads=1, context=8192)
    return folder


@contextmanager
def serve(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port."""
    command = [*COMMAND, "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "/v1" in line)
        yield process, int(line.rsplit(":", 1)[1].partition("/")[0])
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


def num_running(port: int) -> float:
    _, text = get(port, "/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return float(line.rsplit(" ", 1)[1])


def test_killed_clients_leave_nothing_and_sigterm_lets_the_others_finish(run):
    with serve(run, "--batch-rows", 4, "--drain", 60) as (server, port):
        until(lambda: get(port, "/health")[0] == 200)
        client = [sys.executable, "-c", STREAMED, str(port)]
        with subprocess.Popen(client, stdout=subprocess.PIPE, text=True) as killed:
            assert killed.stdout.readline().startswith("data: {")
            assert num_running(port) == 3
            killed.send_signal(signal.SIGKILL)
        until(lambda: num_running(port) == 0)

        short = STREAMED.replace("6000", "400")
        with subprocess.Popen(
            [sys.executable, "-c", short, str(port)], stdout=subprocess.PIPE, text=True
        ) as finishing:
            assert finishing.stdout.readline().startswith("data: {")
            server.send_signal(signal.SIGTERM)
            until(lambda: get(port, "/health")[0] == 503 or finishing.poll() is not None)
            *_, last = [line for line in finishing.stdout if line.strip()]
        assert last == "data: [DONE]\n"
        assert server.wait(20) == 0
        assert "Traceback" not in server.stderr.read()


def engine_of(server: subprocess.Popen[str]) -> int:
    """The process that decodes: the child that has torch."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    (engine,) = [
        int(child) for child in children if "libtorch" in Path(f"/proc/{child}/maps").read_text()
    ]
    assert "libtorch" not in Path(f"/proc/{server.pid}/maps").read_text()
    return engine


def is_there(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_server_that_is_killed_takes_its_engine_along(run):
    with serve(run) as (server, port):
        engine = engine_of(server)
        client = [sys.executable, "-c", STREAMED, str(port)]
        with subprocess.Popen(client, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as asking:
            assert asking.stdout.readline().startswith(b"data: {")
            server.kill()
            until(lambda: not is_there(engine))


def test_an_engine_that_is_killed_fails_what_is_asked_and_the_health(run):
    with serve(run) as (server, port):
        engine = engine_of(server)
        os.kill(engine, signal.SIGTERM)  # means the server, as does Ctrl-C in a terminal
        os.kill(engine, signal.SIGINT)
        client = [sys.executable, "-c", STREAMED, str(port)]
        with subprocess.Popen(client, stdout=subprocess.PIPE, text=True) as asking:
            assert asking.stdout.readline().startswith("data: {")
            os.kill(engine, signal.SIGKILL)
            *_, last = [line for line in asking.stdout if line.strip()]
        assert "the engine has failed" in last
        assert get(port, "/health")[0] == 503
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_beyond_loopback_only_with_a_key(run, monkeypatch):
    monkeypatch.delenv("MTP_CODE_API_KEY", raising=False)
    done = mtp_code("serve", run, "--host", "0.0.0.0", cwd=run)
    assert "MTP_CODE_API_KEY" in complaint(done, 2)


def test_more_drafts_than_heads_are_one_line(run):
    refused = mtp_code("serve", run, "--port", 0, "--drafts", 9, cwd=run)
    assert complaint(refused, 2).endswith("9 drafts: it has heads for 0..0")
    with pytest.raises(CheckpointError, match=r"1 drafts: it has heads for 0\.\.0"):
        bench.measure(
            run, load_for_decoding(run), ["x"], 4,
            num_clients=1, num_drafts=1, num_rounds=1, num_threads=1,
        )  # fmt: skip


def test_a_missing_package_is_one_line_that_names_the_extra(run, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "uvicorn" else found(name, *rest),
    )
    line = complaint(mtp_code("serve", run, cwd=run), 3)
    assert "uvicorn" in line
    assert "mtp-code[serve]" in line
