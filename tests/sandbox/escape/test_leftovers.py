"""What one sample does to its room, and what the next one finds."""

import os

import pytest

from sandbox import Checks, Limits, Outcome, Pool


@pytest.fixture(scope="module")
def alone():
    with Pool(Limits(cpu_s=2), 1) as pool:
        yield pool


MESSES = {
    "files": "import os\nos.mkdir('/tmp/d')\nfor name in ('a', 'd/.x'): open(f'/tmp/{name}', 'w')",
    "many files": "for i in range(4000): open(f'/tmp/{i}', 'w')",
    "locked folders": "import os\nos.makedirs('a/b/c'); os.chmod('a/b', 0); os.chmod('a', 0)",
    "a locked tmp": "import os\nopen('/tmp/x', 'w'); os.chmod('/tmp', 0)",
    "deep folders": "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')",
    "odd names": "for name in (b'\\xff', b'a\\nb', b'-rf'): open(b'/tmp/' + name, 'w')",
    "deep locked folders": """
import os
for _ in range(1500):
    os.mkdir('e', 0); open('f', 'w').close(); os.mkdir('d'); os.chdir('d'); os.chmod('.', 0o300)
""",
    "links": "import os\nos.symlink('/usr', '/tmp/usr'); os.symlink('.', '/tmp/here')",
    "environment": "import os\nos.environ['LEFT'] = 'x'; os.chdir('/'); os.umask(0o777)",
    "patched modules": "import json, builtins\njson.dumps = json.loads = None; builtins.len = None",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))",
    "priority": "import os\nos.nice(19)",
    "a full disk": "f = open('/tmp/big', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "times": "import os\nos.utime('/tmp', (12345, 67890))",
}

PRISTINE = """
import builtins, json, os, resource, stat
assert os.listdir("/tmp") == [], os.listdir("/tmp")
assert os.getcwd() == "/tmp"
status = os.stat("/tmp")
assert stat.S_IMODE(status.st_mode) == 0o700, status
assert "LEFT" not in os.environ
assert json.loads(json.dumps([1])) == [1] and len([1]) == 1
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 5
assert os.getpriority(os.PRIO_PROCESS, 0) == START
assert os.umask(0o77) != 0o777
assert status.st_mtime != 67890
open("/tmp/new", "w").write("x" * 1000)
"""


@pytest.mark.parametrize("mess", MESSES.values(), ids=MESSES.keys())
def test_the_next_sample_finds_a_clean_room(mess, alone, caplog):
    pristine = PRISTINE.replace("START", str(os.getpriority(os.PRIO_PROCESS, 0)))
    _, following = alone.run_all([mess, pristine])
    assert following.exit_code == 0, following.output_tail
    assert caplog.records == []  # nor did it cost the room


def test_a_program_and_its_room_share_no_memory_with_the_next(alone):
    find = """
import gc
# Backwards, so as not to find itself.
texts = [v for o in gc.get_objects() if isinstance(o, dict) for v in o.values() if type(v) is str]
assert not [text for text in texts if "dnif ot gniht eno eht" in text[::-1]]
"""
    secret = "secret = 'the one thing to find'"
    assert next(alone.run_all([f"{secret}\n{find}"])).exit_code == 1  # control: found where it is
    _, following = alone.run_all([secret, find])
    assert following.exit_code == 0, following.output_tail


def test_state_lasts_for_a_program_and_no_longer(alone):
    program = "calls = []\ndef f():\n    calls.append(1)\n    return len(calls)"
    checks = Checks("assert [f(), f()] == [1, 2]")
    outcomes = [e.outcome for e in alone.examine_all([(program, checks)] * 2)]
    assert outcomes == [Outcome.HELD, Outcome.HELD]
