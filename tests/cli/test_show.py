"""Progress, as a log file or a pipe gets it."""

import pytest

from mtp_code.cli import show


def test_a_pipe_gets_a_count_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 31.0, 31.0, 32.0, 62.0, 62.0])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    with show.progress_bar("micro samples") as on_progress:
        for done in (10, 200, 210, 1000):
            on_progress(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "micro samples: 200 of 1,000",
        "micro samples: 1,000 of 1,000",
    ]


@pytest.mark.parametrize("total", [0, 3])
def test_what_is_done_soon_needs_no_line(capsys, total):
    with show.progress_bar("rounds") as on_progress:
        on_progress(total, total)
    assert capsys.readouterr().err == ""
