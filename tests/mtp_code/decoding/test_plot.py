import re

import pytest

from mtp_code.decoding.parts import PARTS
from mtp_code.decoding.plot import draw


def row(mode, drafts, batch_rows=1, **more):
    speed_up = 1 + drafts / 2
    return {
        "mode": mode,
        "drafts": drafts,
        "batch_rows": batch_rows,
        "speed_up": speed_up,
        "speed_up_low": speed_up - 0.1,
        "speed_up_high": speed_up + 0.2,
        **more,
    }


PARTS_S = dict.fromkeys(PARTS, 0.001)
ROWS = [
    row(mode, drafts, batch_rows, **({} if mode == "auto" else {"parts_s": PARTS_S}))
    for batch_rows in (1, 4)
    for mode, drafts in (("plain", 0), ("speculative", 1), ("speculative", 2), ("auto", 2))
]


def words(path):
    return re.findall(r">([^<>]+)</text>", path.read_text())


def test_ways_batches_and_parts_are_named(tmp_path):
    draw([*ROWS, row("transformers generate", 0)], "tiny, micro", tmp_path / "x.svg")
    found = words(tmp_path / "x.svg")
    for said in (
        "tiny, micro", "1 draft", "2 drafts", "auto", "generate", "4 side by side", "plain, 4 rows",
        *PARTS,
    ):  # fmt: skip
        assert said in found


def test_the_same_figures_give_the_same_file(tmp_path):
    for name in ("x.svg", "y.svg"):
        draw(ROWS, "tiny, micro", tmp_path / name)
    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()


@pytest.mark.parametrize("rows", [ROWS[:1], [row("plain", 0), row("auto", 2)]])
def test_what_was_not_measured_has_no_panel(tmp_path, rows):
    draw(rows, "tiny, micro", tmp_path / "x.svg")
    found = words(tmp_path / "x.svg")
    assert ("milliseconds a round, by part" in found) == ("parts_s" in rows[0])
    assert ("speed-up over plain decoding" in found) == (len(rows) > 1)
