"""What the harness and a container's relay say to each other: JSON in frames, over two pipes.

Descriptors cannot cross into a container. So a job goes there whole, and what came of it comes back
as plain data, of which nothing is believed that does not have exactly the form it must have.
"""

import base64
import binascii
import json
import math
import struct
from dataclasses import asdict, fields
from typing import Any, Final

from sandbox import wire
from sandbox.examination import Answer, Checks, Examination, Heard, Opaque
from sandbox.execution import Ending, Execution
from sandbox.jobs import (
    BesideJob,
    CallJob,
    ExamineJob,
    Job,
    RunJob,
    counts_told,
    heard_told,
    one_line,
)
from sandbox.limits import Limits
from sandbox.outcome import Outcome
from sandbox.program import Program
from sandbox.scratch import TAIL_BYTES
from sandbox.tier import Tier
from sandbox.wire import ProtocolError

HEADER: Final = struct.Struct("!I")
# How often a relay says that it is alive while a job is at work.
PULSE_S: Final = 2.0
# An answer takes up to 8 bytes a character where JSON would not bring its text back as it was.
MAX_RESULT_BYTES: Final = 9 * wire.MAX_FRAME_BYTES


def frame(content: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    body = json.dumps(content, separators=(",", ":")).encode("ascii")
    return HEADER.pack(len(body)) + body


class Reader:
    """Puts messages together from parts."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()

    def feed(self, part: bytes) -> list[dict[str, Any]]:
        """The messages that are complete now.

        Raises:
            ProtocolError: the other side does not send what `frame` returns.
        """
        self._data += part
        messages = []
        while (end := self._end()) is not None:
            messages.append(_parse(bytes(self._data[HEADER.size : end])))
            del self._data[:end]
        return messages

    def _end(self) -> int | None:
        """Where the first message ends, if it is complete."""
        if len(self._data) < HEADER.size:
            return None
        (size,) = HEADER.unpack_from(self._data)
        if size > self._max_bytes:
            raise ProtocolError(f"a frame of {size} bytes")
        end: int = HEADER.size + size
        return end if len(self._data) >= end else None


def _parse(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode("ascii"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no message ({error})") from None
    if type(content) is not dict:
        raise ProtocolError("no message")
    return content


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not used")


def order_of(job: Job[Any]) -> dict[str, Any]:
    """A job as data, of which `job_of` makes it again.

    Raises:
        ValueError: an argument to be handed to a function is no plain data.
    """
    order = {"job": job.number, "limits": job.limits.as_dict()}
    match job:
        case RunJob(program=program):
            files = {name: _encode(content) for name, content in program.files.items()}
            changed = {"stdin": _encode(program.stdin), "files": files}
            return order | {"run": _as_dict(program) | changed}
        case ExamineJob(source=source, checks=checks) | BesideJob(source=source, checks=checks):
            return order | {"examine": [source, asdict(checks)]}
        case CallJob():
            return order | {"call": [job.source, job.function, job.encoded_arguments()]}
    raise AssertionError(f"unknown kind of job {job!r}")


def job_of(order: dict[str, Any], tier: Tier) -> Job[Any]:
    """The job of an order, which is our own and believed."""
    common = order["job"], Limits(**order["limits"]), tier
    match order:
        case {"run": program}:
            files = {name: _decode(text) for name, text in program["files"].items()}
            changed = {"stdin": _decode(program["stdin"]), "files": files}
            argv = tuple(program["argv"])
            return RunJob(*common, Program(**program | changed | {"argv": argv}))
        case {"examine": [source, checks]}:
            heard = None if checks["heard"] is None else Heard(*checks["heard"])
            checks = Checks(**checks | {"names": tuple(checks["names"]), "heard": heard})
            kind = BesideJob if checks.beside else ExamineJob
            return kind(*common, source, checks)
        case {"call": [source, function, arguments]}:
            return CallJob(*common, source, function, wire.decode(arguments, _unknown))
    raise AssertionError("unknown order")


def result_of(job: Job[Any]) -> dict[str, Any]:
    """What came of a job as data, which `accept` takes."""
    result = job.result
    match result:
        case Execution():
            content: dict[str, Any] = {"execution": _execution_data(result)}
        case Examination(outcome=outcome, detail=detail, execution=execution):
            counts = None if result.counts is None else [*result.counts]
            heard = None if result.heard is None else [*result.heard]
            data = {"outcome": outcome.value, "detail": detail, "counts": counts, "heard": heard}
            content = {"examination": data, "execution": _execution_data(execution)}
        case Answer(value=value, raised=raised, execution=execution):
            data = {"value": json.dumps(wire.encode(value, _refer)), "raised": raised}
            content = {"answer": data, "execution": _execution_data(execution)}
        case _:
            raise AssertionError("a job without a result")
    return {"job": job.number, **content}


def accept(job: Job[Any], content: dict[str, Any]) -> None:
    """Set a job's result to what a relay says came of it.

    Raises:
        ProtocolError: no relay of ours would say this.
    """
    match job, content:
        case RunJob(program=program), {"job": _, "execution": data, **rest} if not rest:
            job.result = _execution(data, job.limits, keeps_output=program.keeps_output)
        case (
            ExamineJob() | BesideJob(),
            {"job": _, "examination": found, "execution": data, **rest},
        ) if not rest:
            job.result = _examination(found, data, job.limits, is_weak=isinstance(job, BesideJob))
        case CallJob(), {"job": _, "answer": answer, "execution": data, **rest} if not rest:
            job.result = _answer(answer, data, job.limits)
        case _:
            raise ProtocolError("no result of this job")


_EXECUTION: Final[dict[str, tuple[type, ...]]] = {
    "ending": (str,),
    "exit_code": (int, type(None)),
    "signal": (int, type(None)),
    "cpu_s": (float,),
    "wall_s": (float,),
    "peak_memory_bytes": (int,),
    "output_head": (str,),
    "output_tail": (str,),
    "stdout": (str, type(None)),
}
_EXAMINATION: Final[dict[str, tuple[type, ...]]] = {
    "outcome": (str,),
    "detail": (str,),
    "counts": (list, type(None)),
    "heard": (list, type(None)),
}
_ANSWER: Final[dict[str, tuple[type, ...]]] = {"value": (str,), "raised": (str,)}
_MAX_SIGNAL: Final = 64


def _execution_data(execution: Execution) -> dict[str, Any]:
    stdout = None if execution.stdout is None else _encode(execution.stdout)
    data = _as_dict(execution) | {"ending": execution.ending.value, "stdout": stdout}
    return {name: data[name] for name in _EXECUTION}


def _execution(data: Any, limits: Limits, *, keeps_output: bool = False) -> Execution:
    values = _checked(data, _EXECUTION)
    stdout = values["stdout"]
    _require(_is_within(values["exit_code"], 0, 255), "exit code")
    _require(_is_within(values["signal"], 1, _MAX_SIGNAL), "signal")
    _require(all(map(_is_amount, (values["cpu_s"], values["wall_s"]))), "time")
    _require(values["peak_memory_bytes"] >= 0, "memory")
    _require(len(values["output_head"]) <= TAIL_BYTES >= len(values["output_tail"]), "output")
    # One that crashed has none.
    _require(stdout is None or keeps_output, "standard output")
    values["ending"] = _member(Ending, values["ending"])
    try:
        values["stdout"] = None if stdout is None else _decode(stdout)
    except (binascii.Error, ValueError):
        raise ProtocolError("standard output") from None
    _require(stdout is None or len(values["stdout"]) <= limits.output_bytes, "standard output")
    return Execution(**values, isolation=Tier.CONTAINER.value)


def _examination(found: Any, data: Any, limits: Limits, *, is_weak: bool) -> Examination:
    values = _checked(found, _EXAMINATION)
    outcome, detail = _member(Outcome, values["outcome"]), one_line(values["detail"])
    counts = None if values["counts"] is None else counts_told(values)
    _require((counts is None) is (values["counts"] is None), "counts")
    heard = None if values["heard"] is None else heard_told(values)
    _require((heard is None) is (values["heard"] is None), "heard")
    return Examination(outcome, detail, _execution(data, limits), is_weak, counts, heard)


def _answer(answer: Any, data: Any, limits: Limits) -> Answer:
    values = _checked(answer, _ANSWER)
    _require(values["value"].isascii(), "value")
    encoded = wire.parse(values["value"].encode("ascii"))
    value = wire.decode(encoded, lambda _, label: Opaque(label[:100]))
    return Answer(value, one_line(values["raised"]), _execution(data, limits))


def _checked(data: Any, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    """A copy of an object that has exactly these fields, of exactly these types."""
    _require(type(data) is dict and data.keys() == kinds.keys(), "fields")
    for name, value in data.items():
        _require(type(value) in kinds[name], name)
    return dict(data)


def _member(kind: Any, value: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def _is_within(number: int | None, least: int, most: int) -> bool:
    return number is None or least <= number <= most


def _is_amount(number: float) -> bool:
    return math.isfinite(number) and number >= 0


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ProtocolError(f"a wrong {what}")


def _as_dict(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, as they are."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _refer(value: object) -> wire.Json:
    assert isinstance(value, Opaque)
    return wire.reference(0, value.kind)


def _unknown(key: int, label: str) -> object:
    raise AssertionError("plain data only is handed over")
