"""Whatever a program's side sends, the checks' side stands: no crash, no pass, no blame on checks.

MTP_CODE_FUZZ is how many malformed sessions are tried (default: a few thousand). A session is all
that one hostile peer sends; most hold several replies, of which at least one is malformed. Each is
sent live, call by call, and left behind as answers to recorded calls.
"""

import functools
import json
import os
import random
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import checker, desk, handed, messages, recording, wire
from sandbox.outcome import Outcome
from sandbox.scratch import Note

NUM_SESSIONS = int(os.environ.get("MTP_CODE_FUZZ", "3000"))
BATCH = 50
NUM_CASES = max(1, NUM_SESSIONS // BATCH)
# Drawing structures takes hypothesis a hundred times as long as a mutation.
NUM_DRAWN = max(50, NUM_SESSIONS // 30)
TIMEOUT_S = 240 + NUM_SESSIONS // 50

many = settings(
    max_examples=NUM_CASES, deadline=None, database=None, suppress_health_check=[*HealthCheck]
)
drawn = settings(
    max_examples=NUM_DRAWN, deadline=None, database=None, suppress_health_check=[*HealthCheck]
)

# What every check below demands in the end, and no peer can know: so none of them may hold.
SECRET = secrets.randbits(200)
NAMES = ("E", "f")
# Checks that the program can call back; what they tell it is no secret.
HANDING_OVER = (
    "assert f(lambda x: x) == SECRET",
    "def g(x=1, *y, z=2, **w): return (x, y, z, w)\nassert f(g)[0] == f([g], k=g) == SECRET",
    "def g(x): assert x == SECRET\ntry: f(g)\nexcept Exception: pass\nassert f(g) == SECRET",
    "seen = []\nf(seen.append)\nassert seen == [SECRET]",
    "def numbers():\n    yield 1\n    assert False\nassert f(numbers()) == SECRET",
    "class Thing:\n    x = 1\n    def __len__(self): return 2\n    def get(self, *_): return self\n"
    "thing = Thing()\nassert f(thing) is thing and f(thing.get) == SECRET",
    "def g(x): return f(g) if x == 1 else x\nassert f(g) == SECRET",
    "assert f(len, str.upper, {}.get) == SECRET",
    "try: f(lambda x: {}[x])\nexcept KeyError as e: assert e.args == (SECRET,)\n"
    "else: assert f(1) == SECRET",
    "try: f(1)\nexcept E as e: assert e.code == SECRET\nelse: assert f(2) == SECRET",
    "try: assert f(1) == SECRET\nexcept E as e: assert str(e) == 'SECRET'",
    "assert isinstance(f(1), E) and f(1).x == SECRET",
    "p = f(1)\nassert p._replace(x=1) == p and p.x == p.y == SECRET",
)
# What such checks are asked for, with the arguments to it.
METHODS = ("__call__", "__next__", "__iter__", "__getattr__", "__setattr__", "__len__", "__eq__")
CHECKS = [
    source.replace("SECRET", str(SECRET))
    for source in (
        "assert f(1) == SECRET",
        "assert f(1) == f(2) == SECRET",
        "assert f(f(f(1), f), k=f) == SECRET",
        "xs = [3, 1]\nf(xs)\nassert xs == [SECRET]",
        "t = {'a': [1], 'b': {2}, 'c': bytearray(b'x')}\nf(t, k=t)\nassert t['a'] == [SECRET]",
        "from collections import deque, OrderedDict\nd, o = deque([1]), OrderedDict(a=1)\n"
        "f(d, o, (d, [o]))\nassert d[0] == o['a'] == SECRET",
        "assert list(f(1)) == [SECRET]",
        "assert SECRET in f(1)",
        "assert len(f(1)) == SECRET",
        "assert f(1)[0] == SECRET",
        "assert f(1).x.y(2) == SECRET",
        "assert sorted(f(1)) == [SECRET]",
        "assert str(f(1)) == repr(f(2)) == f'{f(3)}' == 'SECRET'",
        "assert abs(f(1) - SECRET) < 0.5",
        "import math\nassert math.isclose(f(1), SECRET, rel_tol=1e-12)",
        "assert {f(1): 1} == {SECRET: 1}",
        "assert not f(1) and f(2) == SECRET",
        "assert isinstance(f(1), f) and f(1) == SECRET",
        "x, *y = f(1)\nassert x == SECRET and y",
        "for v in f(1): pass\nassert v == SECRET",
        "assert any(v == SECRET for v in f(1))",
        "f.x = f(1)\nf(1)[2] = f(3)\ndel f(1)['x']\nassert f(3) == SECRET",
        "try: f(1)\nexcept ValueError as e: assert 'SECRET' in str(e)\nelse: assert f(2) == SECRET",
        "try: f(1)\nexcept BaseException: pass\nassert f(2) == SECRET",
        "def check(candidate):\n    for n in range(5): assert candidate(n) == SECRET\ncheck(f)",
        *HANDING_OVER,
    )
]


class Peer:
    """A stream that holds all that a hostile program will ever send, in parts of any size."""

    def __init__(self, sent: bytes, part: int = 1 << 20, resets: bool = False) -> None:
        self.sent, self._part, self._resets = sent, part, resets
        self._place = 0

    def recv(self, size: int) -> bytes:
        part = self.sent[self._place : self._place + min(size, self._part)]
        self._place += len(part)
        if not part and self._resets:
            raise ConnectionResetError
        return part

    def sendall(self, data: bytes) -> None:
        if self._resets and self._place >= len(self.sent):
            raise BrokenPipeError


def frame(body: bytes, size: int | None = None) -> bytes:
    return struct.pack("!I", len(body) if size is None else size) + body


def stands(source: str, stream: wire.Stream) -> Outcome:
    """The outcome of checks that no peer can meet, after making sure that it is a proper one."""
    outcome, detail, kind = checker.examine(source, NAMES, stream)
    assert type(outcome) is Outcome
    assert type(detail) is str
    assert kind is None or type(kind) is str
    json.dumps([detail, kind])
    assert outcome is not Outcome.HELD
    # Only what no program can bring about is the checks' own fault.
    assert outcome is not Outcome.CHECKS_BROKEN
    return outcome


@functools.cache
def recorded(source: str) -> bytes | None:
    """The calls that the checks make; None where they cannot be recorded."""
    found = recording.record(source, NAMES)
    return None if found is None else found.requests


def file_of(content: bytes) -> int:
    descriptor = os.memfd_create("fuzz")
    os.write(descriptor, content)
    return descriptor


def stands_replayed(source: str, sent: bytes) -> Outcome | None:
    """The same of a file of answers; None where there is no recording, or the checks left it."""
    requests = recorded(source)
    if requests is None:
        return None
    answers = file_of(sent + bytes(64))  # what was not written is zero
    try:
        replay = desk.Replay(requests, answers)
        outcome = stands(source, replay)
        return None if replay.is_diverged else outcome
    finally:
        os.close(answers)


TAGS = [*wire._DECODERS, "ref", "given", "named", "made", "error", "namedtuple"]
WORDS = [
    *TAGS,
    "callback",
    "raised own",
    "raised again",
    *METHODS,
    "value",
    "raised",
    "ready",
    "broken",
    "names",
    "f",
    "x",
    "__eq__",
    "program",
    "",
]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 1 << 53, -(1 << 63), 10**400, 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), "", "f", "\0", "ä", "\ud800", "0x" + "f" * 5000, "-0x1", "ff" * 300,
    "1e999999", "sNaN", "ValueError", "StopIteration", "SystemExit", "ExceptionGroup",
    "BaseException", "UnicodeDecodeError", "KeyError", "x" * 3000, [], [[]], {}, {"a": 1},
    ["list"], ["ref", 0, "f"],
    ["ref", 1, "Same"], ["ref", -1, ""], ["ref", True, "x"], ["dict", 1], ["set", ["list"]],
    ["Decimal", "sNaN"], ["deque", 0, 1], ["range", 0, 1 << 70, 1], ["int", "0x" + "f" * 9000],
    ["timedelta", 999999999, 86399, 999999], ["Counter", "a", ["list"]], ["type", "int"],
    ["float", "nan"], ["complex", 1e308, 1e308], ["str", "0000d800"], ["Fraction", 1, 0],
]  # fmt: skip


def ordinary_value(chance: random.Random, depth: int = 0) -> Any:
    """The JSON of some plain value, as an honest program would send it."""
    leaf = chance.random() < 0.4 or depth > 3
    if leaf:
        return chance.choice(
            [None, True, 0, 1, -5, 2.5, "", "text", ["int", hex(1 << 80)], *ODD[:8]]
        )
    parts = [ordinary_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    tag = chance.choice(
        "list tuple list tuple set dict deque ref Counter given namedtuple".split()  # noqa: SIM905
    )
    match tag:
        case "dict" | "Counter":
            return [tag, *(each for n, part in enumerate(parts) for each in (f"k{n}", part))]
        case "deque":
            return [tag, None, *parts]
        case "ref":
            return [tag, chance.randrange(4), "Thing"]
        case "given":
            return [tag, chance.randrange(3)]
        case "namedtuple":
            return [tag, "P", " ".join("xyzw"[: len(parts)]), *parts]
    return [tag, *parts]


def ordinary_reply(chance: random.Random) -> list[Any]:
    drawn_number = chance.random()
    if drawn_number < 0.12:
        given = [ordinary_value(chance) for _ in range(chance.randrange(3))]
        names = ["k"] if given and chance.random() < 0.3 else []
        method = chance.choice([*METHODS, *["__call__"] * 6])
        return ["callback", chance.choice([0, 0, 0, 1, 2]), method, ["tuple", *given], names]
    if drawn_number < 0.15:
        described = ["error", chance.randrange(4), "E", "program", chance.choice(["KeyError", "E"])]
        own = [
            ["raised again", chance.randrange(3)],
            ["raised own", described, chance.randrange(9)],
        ]
        return [*chance.choice(own), ["E", "ValueError"], "said", "kind", "detail"]
    if drawn_number < 0.25:
        kinds = chance.choice([["ValueError", "Exception"], ["Odd", "KeyError"], ["Odd"], []])
        return ["raised", kinds, "said", "kind", "detail (line 1)"]
    if drawn_number < 0.35:
        return ["value", ordinary_value(chance), ["tuple", ordinary_value(chance)]]
    return ["value", ordinary_value(chance)]


def ordinary_session(chance: random.Random) -> list[Any]:
    replies = [ordinary_reply(chance) for _ in range(chance.randrange(1, 6))]
    if chance.random() < 0.3:  # a call that most checks expect which can be called at all
        method, *given = chance.choice([("__call__", 1), ("__call__", 1), ("__next__",)])
        replies.insert(0, ["callback", 0, method, ["tuple", *given], []])
    kinds = [["error", 0, "E", "program", "ValueError"], ["error", 0, "KeyError", "builtins"]]
    found = ["dict", "f", ["ref", 1, "function"], "E", chance.choice(kinds)]
    return [["ready"], ["value", found if chance.random() < 0.5 else found[:3]], *replies]


def nodes(tree: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    found = [path]
    if type(tree) is list:
        for number, part in enumerate(tree):
            found += nodes(part, (*path, number))
    return found


def changed(tree: Any, path: tuple[int, ...], change: Callable[[Any], list[Any]]) -> Any:
    """The tree with the node at the path replaced by those that ``change`` makes of it."""
    if not path:
        return (change(tree) or [None])[0]
    number, *rest = path
    if not rest:
        return [*tree[:number], *change(tree[number]), *tree[number + 1 :]]
    part = changed(tree[number], tuple(rest), change)
    return [*tree[:number], part, *tree[number + 1 :]]


def deep(chance: random.Random) -> Any:
    tree: Any = 1
    for _ in range(chance.choice([3, wire.MAX_DEPTH - 1, wire.MAX_DEPTH + 1, 400])):
        tree = [chance.choice(["list", "tuple"]), tree]
    return tree


def with_other_structure(tree: Any, chance: random.Random) -> Any:
    path = chance.choice(nodes(tree))
    changes: list[Callable[[Any], list[Any]]] = [
        lambda node: [chance.choice(ODD)],
        lambda node: [chance.choice(WORDS)],
        lambda node: [],
        lambda node: [node, node],
        lambda node: [[chance.choice(WORDS), node]],
        lambda node: [deep(chance)],
        lambda node: [[chance.choice(TAGS), *(chance.choice(ODD) for _ in range(3))]],
        lambda node: [node[::-1] if type(node) is list else [node]],
    ]
    return changed(tree, path, chance.choice(changes))


def with_other_bytes(body: bytes, chance: random.Random) -> bytes:
    content = bytearray(body)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(content) + 1)
        match chance.randrange(5):
            case 0 if place < len(content):
                content[place] ^= 1 << chance.randrange(8)
            case 1:
                content[place:place] = chance.choice([b"[", b"]", b'"', b",", b"{", b"\\u", b"NaN"])
            case 2:
                del content[place : place + chance.randrange(1, 6)]
            case 3:
                content[place:place] = chance.randbytes(chance.randrange(1, 5))
            case _:
                content[place:place] = content[: chance.randrange(20)]
    return bytes(content)


def malformed_session(chance: random.Random) -> Peer:
    """An ordinary session with one to three things wrong: in structure, bytes, frames or order."""
    messages = ordinary_session(chance)
    bodies: list[tuple[bytes, int | None]] = []
    # Mostly behind the greeting: else most sessions would end there.
    place = (
        chance.randrange(len(messages))
        if chance.random() < 0.2
        else chance.randrange(2, len(messages))
    )
    for number, message in enumerate(messages):
        size = None
        kind = chance.randrange(4) if number == place else None
        if kind in (0, 1):
            for _ in range(chance.randrange(1, 4)):
                message = with_other_structure(message, chance)
        body = json.dumps(message).encode("ascii")
        if kind == 2:
            body = with_other_bytes(body, chance)
        if kind == 3:
            size = chance.choice(
                [0, 1, len(body) - 1, len(body) + 1, wire.MAX_FRAME_BYTES + 1, (1 << 32) - 1]
            )
        bodies.append((body, size))
    match chance.randrange(10):
        case 0:
            chance.shuffle(bodies)
        case 1:
            bodies.insert(place, bodies[place])
        case 2:
            del bodies[place]
    sent = b"".join(frame(*each) for each in bodies)
    if chance.random() < 0.1:
        sent = sent[: chance.randrange(len(sent) + 1)]
    part = chance.choice([1, 3, 1 << 20]) if len(sent) < 2000 else 1 << 20
    return Peer(sent, part, resets=chance.random() < 0.2)


@pytest.mark.timeout(TIMEOUT_S)
@many
@given(st.integers(0, (1 << 64) - 1))
def test_no_malformed_session_passes_or_breaks_the_checks(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(BATCH):
        source, peer = chance.choice(CHECKS), malformed_session(chance)
        stands(source, peer)
        stands_replayed(source, peer.sent)


def test_the_sessions_tried_are_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: they get as far as the checks' assertions, and end in each way."""
    chance = random.Random(1)
    live: Counter[Outcome] = Counter()
    replayed: Counter[Outcome | None] = Counter()
    run: Counter[str] = Counter()
    find = handed.Handed.method

    def counting(self: handed.Handed, handle: Any, name: Any) -> Any:
        found = find(self, handle, name)
        run[name] += 1
        return found

    monkeypatch.setattr(handed.Handed, "method", counting)
    for _ in range(3000):
        source, peer = chance.choice(CHECKS), malformed_session(chance)
        live[stands(source, peer)] += 1
        replayed[stands_replayed(source, peer.sent)] += 1
    for outcome in (Outcome.FAILED, Outcome.RAISED, Outcome.ENDED):
        assert live[outcome] > 100
        assert replayed[outcome] > 25  # of some checks nothing is recorded
    assert run["__call__"] > 25
    assert run["__next__"] > 0


def test_a_peer_that_knew_the_secret_would_pass() -> None:
    """Control: it is the answers that keep the checks from holding, not the way they are sent."""
    for source in CHECKS:
        if source.count("f(") == 1 and source.startswith("assert f(1) =="):
            messages = [*ordinary_session(random.Random(0))[:2], ["value", ["int", hex(SECRET)]]]
            sent = b"".join(frame(json.dumps(message).encode()) for message in messages)
            assert checker.examine(source, NAMES, Peer(sent))[0] is Outcome.HELD
            requests = recorded(source)
            assert requests is not None
            replay = desk.Replay(requests, file_of(sent))
            assert checker.examine(source, NAMES, replay)[0] is Outcome.HELD
            assert not replay.is_diverged
            break
    else:
        raise AssertionError("no such check")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(WORDS),
    lambda parts: (
        st.lists(parts, max_size=4)
        | parts.map(lambda part: {"a": part})
        | st.tuples(st.sampled_from(TAGS), st.lists(parts, max_size=4)).map(
            lambda pair: [pair[0], *pair[1]]
        )
    ),
    max_leaves=12,
)
replies = st.one_of(
    json_values,
    json_values.map(lambda value: ["value", value]),
    st.tuples(json_values, json_values).map(lambda pair: ["value", *pair]),
    st.tuples(*[json_values] * 4).map(lambda rest: ["raised", *rest]),
)  # fmt: skip


@pytest.mark.timeout(TIMEOUT_S)
@drawn
@given(st.sampled_from(CHECKS), st.lists(replies, min_size=1, max_size=6), st.booleans())
def test_no_replies_of_any_structure_pass_or_break_the_checks(
    source: str, messages: list[Any], greets: bool
) -> None:
    greeting = ordinary_session(random.Random(0))[:2] if greets else []
    sent = b"".join(frame(json.dumps(message).encode("ascii")) for message in greeting + messages)
    stands(source, Peer(sent))
    stands_replayed(source, sent)


@pytest.mark.timeout(TIMEOUT_S)
@drawn
@given(st.binary(max_size=200), st.integers(1, 7), st.booleans())
def test_any_bytes_are_messages_an_end_or_refused(sent: bytes, part: int, resets: bool) -> None:
    for content in (sent, frame(sent), frame(sent) + sent):
        peer = Peer(content, part, resets)
        try:
            while wire.receive(peer) is not None:
                pass
        except wire.ProtocolError:
            pass
        stands(CHECKS[0], Peer(content, part, resets))
        stands_replayed(CHECKS[0], content)


@pytest.mark.timeout(TIMEOUT_S)
@many
@given(st.integers(0, (1 << 64) - 1))
def test_what_is_decoded_can_be_sent_back_and_all_else_is_refused(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(BATCH):
        tree = ordinary_value(chance)
        for _ in range(chance.randrange(1, 4)):
            tree = with_other_structure(tree, chance)
        body = json.dumps(tree).encode("ascii")
        if chance.random() < 0.3:
            body = with_other_bytes(body, chance)
        try:
            value = wire.decode(wire.parse(body), lambda key, label: ...)
        except wire.ProtocolError:
            continue
        try:
            sent = json.dumps(wire.encode(value, lambda value: wire.reference(0, "")))
        except wire.Unsendable:
            continue  # a maximal depth, with one more in between
        wire.decode(wire.parse(sent.encode("ascii")), lambda key, label: ...)


# What comes from a room is read by the harness itself, which must outlast it.
HUGE = {
    "deep arrays": b"[" * 60_000,
    "deep objects": b'{"a":' * 10_000,
    "many digits": b"1" * 60_000,
    "half of a pair": b'{"outcome": "\\ud800"}',
    "no text": b"\xff" * 60_000,
    "no number": b"NaN",
}
report_bytes = st.binary(max_size=200) | json_values.map(lambda data: json.dumps(data).encode())


def receive_report(sent: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(sent)
        theirs.close()
        try:
            report = messages.receive_report(ours)
        except ValueError:
            return
        assert report is None or type(report) is dict


def read_note(written: bytes) -> None:
    note = Note()
    try:
        os.pwrite(note.descriptor, written, 0)
        assert type(note.content()) is dict
    finally:
        note.close()


@pytest.mark.timeout(TIMEOUT_S)
@drawn
@given(report_bytes)
def test_any_report_or_note_is_an_object_or_refused(sent: bytes) -> None:
    receive_report(sent)
    read_note(sent)


@pytest.mark.parametrize("read", [receive_report, read_note])
@pytest.mark.parametrize("name", HUGE)
def test_a_huge_report_or_note_is_refused(read: Callable[[bytes], None], name: str) -> None:
    read(HUGE[name])
