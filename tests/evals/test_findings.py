"""Findings are kept through kills, shared by processes, and wanted once each."""

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from evals.errors import InputError
from evals.findings import Findings


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_is_kept_is_found_by_the_next_run(tmp_path: Path) -> None:
    with Findings(tmp_path / "new" / "findings") as findings:
        findings.keep(key(1), {"verdict": "passed"})
    with Findings(tmp_path / "new" / "findings") as findings:
        assert key(1) in findings
        assert findings[key(1)] == {"verdict": "passed"}
        assert key(2) not in findings
        with pytest.raises(KeyError):
            findings[key(2)]


def _keep_and_die(path: Path) -> None:
    findings = Findings(path)
    for number in range(100):
        findings.keep(key(number), {"number": number})
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(
        target=_keep_and_die, args=(tmp_path / "findings",)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with Findings(tmp_path / "findings") as findings:
        assert [findings[key(number)]["number"] for number in range(100)] == [*range(100)]


def test_a_key_is_wanted_once_and_only_if_its_finding_is_missing(tmp_path: Path) -> None:
    with Findings(tmp_path / "findings") as findings:
        findings.keep(key(1), {})
        for number in (1, 2, 2, 3):
            findings.want(key(number))
        assert findings.num_wanted == 2
        assert [findings.claim(key(number)) for number in (1, 2, 2, 4)] == [
            False,
            True,
            False,
            False,
        ]
        assert findings.num_wanted == 1


def test_what_is_wanted_is_no_other_processes_matter(tmp_path: Path) -> None:
    path = tmp_path / "findings"
    with Findings(path) as ours, Findings(path) as theirs:
        ours.want(key(1))
        assert theirs.num_wanted == 0
        theirs.keep(key(1), {"by": "them"})
        assert ours[key(1)] == {"by": "them"}


def test_findings_of_a_month_ago_are_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "findings"
    with Findings(path) as findings:
        findings.keep(key(1), {})
        findings.keep(key(2), {})
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE findings SET day = day - 31 WHERE key = ?", (key(1),))
    database.close()
    with Findings(path) as findings:
        assert key(1) not in findings
        assert key(2) in findings


def test_nothing_of_a_removed_file_is_left(tmp_path: Path) -> None:
    with Findings(tmp_path / "findings") as findings:
        findings.keep(key(1), {})
        findings.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "findings").write_text("x" * 5000)
    with pytest.raises(InputError, match=r"findings: no database of findings .*; delete it"):
        Findings(tmp_path / "findings")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be opened"):
        Findings(tmp_path / "file" / "findings")
