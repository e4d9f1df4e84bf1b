"""A run's figures over time: `metrics.jsonl`, and the same for TensorBoard."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from mtp_code.files import write_text

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends rows as they come; beginning at a step drops what a killed run wrote behind it.

    Each row has `kind` (`train` or `validation`) and `step`; losses are in nats per token.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._path = run_dir / METRICS_FILE
        self._tensorboard_dir = run_dir / "tensorboard"
        self._first_step = first_step

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter  # most of a second to import

        kept = [row for row in read_metrics(self._path) if row["step"] <= self._first_step]
        write_text(self._path, "".join(map(_line, kept)))
        self._file: IO[str] = self._path.open("a", encoding="utf-8")
        self._tensorboard: Any = SummaryWriter(
            str(self._tensorboard_dir), purge_step=self._first_step + 1
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._tensorboard.close()

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()
        prefix = "/".join(str(row[key]) for key in ("kind", "source") if key in row)
        for name, value in row.items():
            if name in ("schema", "kind", "source", "step"):
                continue
            values = (
                {f"{name}/{i}": v for i, v in enumerate(value, 1)}
                if isinstance(value, list)
                else {name: value}
            )
            for tag, scalar in values.items():
                self._tensorboard.add_scalar(f"{prefix}/{tag}", scalar, row["step"])

    def sync(self) -> None:
        """Waits until the disk holds all rows, so that no checkpoint is ahead of them."""
        os.fsync(self._file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows, but for a last line that a kill cut off; none if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        rows.append(json.loads(line))
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
