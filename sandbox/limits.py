"""What one program may use."""

from dataclasses import dataclass, fields
from typing import Any, Final

MIB = 1 << 20

# What waits for events takes its timeouts as milliseconds in 31 bits.
_MAX_S: Final = 1_000_000
_MAX_WHOLE: Final = 1 << 50
# An interpreter starts with less, but imports nothing.
_MIN_OPEN_FILES: Final = 16


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one program; reaching one ends it, or makes the call that reached it fail.

    ``cpu_s`` is the CPU time of all threads together. ``wall_s`` is the backstop for programs that
    wait (default: ten times ``cpu_s``). Either may be 1,000,000 s (11 days) at most.
    ``memory_bytes`` bounds the address space, what the interpreter itself takes of it included,
    and the stack of each thread (8 MiB).
    ``max_processes`` counts processes and threads together; new processes are refused whatever it
    says, unless `Profile.processes` allows them. ``tmp_bytes`` and ``tmp_files`` bound /tmp, the
    only place that can be written; they are fixed when a pool starts.

    Raises:
        ValueError: a limit is not a positive number, not a whole one where bytes or things are
            counted, or out of its bounds.
    """

    cpu_s: float = 3.0
    wall_s: float | None = None
    memory_bytes: int = 512 * MIB
    output_bytes: int = 1 * MIB
    tmp_bytes: int = 64 * MIB
    tmp_files: int = 4096
    max_processes: int = 64
    max_open_files: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                least = _MIN_OPEN_FILES if field.name == "max_open_files" else 1
                if not _is_whole(value) or not least <= value <= _MAX_WHOLE:
                    raise ValueError(
                        f"Limits.{field.name} must be a whole number of at least {least} "
                        f"and at most {_MAX_WHOLE}, got {value!r}"
                    )
            elif value is None and field.name == "wall_s":
                continue
            elif not (_is_whole(value) or isinstance(value, float)) or not 0 < value <= _MAX_S:
                raise ValueError(
                    f"Limits.{field.name} must be a positive number of at most {_MAX_S}, "
                    f"got {value!r}"
                )

    @property
    def wall_limit_s(self) -> float:
        return min(10 * self.cpu_s, _MAX_S) if self.wall_s is None else self.wall_s

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
