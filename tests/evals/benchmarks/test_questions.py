import json
import os

import pytest

from evals.benchmarks.questions import QUESTIONS, STEM, load_questions
from evals.errors import RecordError


def folder_with(tmp_path, monkeypatch, rows):
    (tmp_path / f"{STEM}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))


def test_first_turns_of_a_set_s_categories_are_asked(tmp_path, monkeypatch):
    rows = [
        {"question_id": 1, "category": "coding", "turns": ["Write it.", "Shorter."]},
        {"question_id": 2, "category": "math_reasoning", "turns": ["How many?"]},
        {"question_id": 3, "category": "translation", "turns": ["Übersetze."]},
    ]
    folder_with(tmp_path, monkeypatch, rows)
    found = {name: load_questions(name) for name in QUESTIONS}
    assert found == {
        "mt-bench": ["Write it."],
        "gsm8k": ["How many?"],
        "spec-bench": ["Write it.", "How many?"],
    }


@pytest.mark.parametrize(
    "rows", [[], [{"category": "coding"}], [{"category": "coding", "turns": [1]}]]
)
def test_another_file_is_refused_with_what_was_expected(tmp_path, monkeypatch, rows):
    folder_with(tmp_path, monkeypatch, rows)
    with pytest.raises(RecordError, match=r"expected Spec-Bench's question\.jsonl"):
        load_questions("mt-bench")


@pytest.mark.skipif(not os.environ.get("MTP_CODE_DATA"), reason="Spec-Bench's data: MTP_CODE_DATA")
def test_the_real_file_has_eighty_of_each():
    assert len(load_questions("mt-bench")) == len(load_questions("gsm8k")) == 80
