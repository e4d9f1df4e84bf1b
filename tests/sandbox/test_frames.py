"""What passes between the harness and a container's relay, and what is believed of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import Checks, Heard, Limits, Outcome, Program, Tier, frames
from sandbox.jobs import CallJob, ExamineJob, RunJob
from sandbox.wire import ProtocolError

LIMITS = Limits()


def jobs():
    return [
        RunJob(1, LIMITS, Tier.CONTAINER, Program("pass", keeps_output=True)),
        ExamineJob(1, LIMITS, Tier.CONTAINER, "pass", Checks("")),
        CallJob(1, LIMITS, Tier.CONTAINER, "pass", "f", ()),
    ]


EXECUTION = {
    "ending": "exited", "exit_code": 0, "signal": None, "cpu_s": 0.5, "wall_s": 1.5,
    "peak_memory_bytes": 1000, "output_head": "x", "output_tail": "x", "stdout": None,
}  # fmt: skip
EXAMINATION = {"outcome": "held", "detail": "d", "counts": None, "heard": None}
RESULTS = [
    {"job": 1, "execution": {**EXECUTION, "stdout": "eA=="}},
    {"job": 1, "examination": EXAMINATION, "execution": EXECUTION},
    {"job": 1, "answer": {"value": '["list",1,2]', "raised": ""}, "execution": EXECUTION},
]


def test_results_of_the_right_form_are_taken():
    run_, examined, called = jobs()
    for job, result in zip((run_, examined, called), RESULTS, strict=True):
        frames.accept(job, result)
    assert run_.result.stdout == b"x"
    assert run_.result.isolation == "container"
    assert examined.result.outcome is Outcome.HELD
    assert called.result.value == [1, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ending", "passed"), ("ending", None), ("exit_code", 256), ("exit_code", True),
        ("exit_code", "0"), ("signal", 0), ("signal", 65), ("cpu_s", -1.0), ("cpu_s", 1),
        ("wall_s", float("inf")), ("peak_memory_bytes", -1), ("output_head", "x" * 4097),
        ("output_tail", b"x".hex), ("stdout", "%"), ("stdout", "eHg=" * (1 << 20)), ("more", 1),
    ],
)  # fmt: skip
def test_an_execution_of_another_form_is_not_taken(name, value):
    job = jobs()[0]
    with pytest.raises(ProtocolError):
        frames.accept(job, {"job": 1, "execution": {**EXECUTION, name: value}})
    assert job.result is None


def test_standard_output_that_was_not_asked_for_is_not_taken():
    job = RunJob(1, LIMITS, Tier.CONTAINER, Program("pass"))
    with pytest.raises(ProtocolError):
        frames.accept(job, RESULTS[0])


@pytest.mark.parametrize("value", ['{"a":1}', "[]", '["ref",true,"x"]', "nonsense", "NaN", "ä"])
def test_a_value_of_another_form_is_not_taken(value):
    job = jobs()[2]
    with pytest.raises(ProtocolError):
        frames.accept(job, {**RESULTS[2], "answer": {"value": value, "raised": ""}})


def test_a_result_of_another_kind_is_not_taken():
    for number, job in enumerate(jobs()):
        for other, result in enumerate(RESULTS):
            if other != number:
                with pytest.raises(ProtocolError):
                    frames.accept(job, result)


def test_what_a_program_says_of_itself_is_told_in_a_line():
    job = jobs()[1]
    examination = {**EXAMINATION, "outcome": "raised", "detail": "a\n\x1b[1m"}
    frames.accept(job, {**RESULTS[1], "examination": examination})
    assert job.result.detail == "a [1m"


def test_what_was_heard_is_taken_or_refused():
    examination = {**EXAMINATION, "outcome": "ended", "heard": [3, "abc"]}
    job = jobs()[1]
    frames.accept(job, {**RESULTS[1], "examination": examination})
    assert job.result.heard == Heard(3, "abc")
    again = ExamineJob(1, LIMITS, Tier.CONTAINER, "pass", Checks("f()", heard=job.result.heard))
    order = json.loads(json.dumps(frames.order_of(again)))
    assert frames.job_of(order, Tier.FULL).checks == again.checks
    for heard in ([], [1], [-1, "a"], ["1", "a"], [1, 2], [1, "a", "b"], 7):
        with pytest.raises(ProtocolError):
            frames.accept(job, {**RESULTS[1], "examination": {**examination, "heard": heard}})


def test_counts_are_taken_or_refused():
    for counts in ([2, 3], [0, 1]):
        job = jobs()[1]
        examination = {**EXAMINATION, "outcome": "failed", "counts": counts}
        frames.accept(job, {**RESULTS[1], "examination": examination})
        assert job.result.counts == tuple(counts)
    for counts in ([], [1], [3, 2], [-1, 2], [0, 0], [1.0, 2], [0, 1 << 40], ["1", 2], 7):
        with pytest.raises(ProtocolError):
            frames.accept(job, {**RESULTS[1], "examination": {**examination, "counts": counts}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2), st.data())
def test_whatever_a_relay_says_is_taken_or_refused(number, data):
    job, result = jobs()[number], json.loads(json.dumps(RESULTS[number]))
    holder = data.draw(st.sampled_from([v for v in result.values() if isinstance(v, dict)] or [0]))
    holder = data.draw(st.sampled_from([result, holder]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(json_values)
    try:
        frames.accept(job, result)
    except ProtocolError:
        assert job.result is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), max_size=5),
    st.lists(st.integers(1, 9)),
)
def test_messages_are_put_together_from_any_parts(messages, sizes):
    messages = json.loads(json.dumps(messages).replace("NaN", "0").replace("Infinity", "1"))
    data = b"".join(map(frames.frame, messages))
    reader, found = frames.Reader(1 << 20), []
    for size in sizes:
        found += reader.feed(data[:size])
        data = data[size:]
    found += reader.feed(data)
    assert found == messages


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02[]",
        b"\0\0\0\x01{",
        b"\0\0\0\0",
        b"\0\0\0\x09" + b'{"a":NaN}',
        b"\0\1\x86\xa0" + b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ProtocolError):
        frames.Reader(1 << 20).feed(data)


def test_a_job_arrives_as_it_was():
    program = Program("pass", b"in", {"a/b": b"\xff"}, ("x",), keeps_output=True)
    for job in (
        RunJob(3, LIMITS, Tier.FULL, program),
        ExamineJob(3, LIMITS, Tier.FULL, "pass", Checks("a", ("b",))),
        CallJob(3, LIMITS, Tier.FULL, "pass", "f", ((1, {2}), b"x")),
    ):
        order = json.loads(json.dumps(frames.order_of(job)))
        arrived = frames.job_of(order, Tier.RESTRICTED)
        assert type(arrived) is type(job)
        assert (arrived.number, arrived.limits) == (3, LIMITS)
        for name in ("program", "source", "checks", "function", "arguments"):
            assert getattr(arrived, name, None) == getattr(job, name, None)
