"""What one program may use."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one program; reaching one ends it, or makes the call that reached it fail.

    ``cpu_s`` is the CPU time of all threads together. ``wall_s`` is the backstop for programs that
    wait (default: ten times ``cpu_s``). ``memory_bytes`` bounds the address space, what the
    interpreter itself takes of it included. ``max_processes`` counts processes and threads
    together; new processes are refused whatever it says. ``tmp_bytes`` and ``tmp_files`` bound
    /tmp, the only place that can be written; they are fixed when a pool starts.

    Raises:
        ValueError: a limit is not a positive number.
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
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Limits.{field.name} must be a positive number, got {value!r}")

    @property
    def wall_limit_s(self) -> float:
        return 10 * self.cpu_s if self.wall_s is None else self.wall_s

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
