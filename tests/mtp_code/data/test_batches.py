import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp_code.config import validate
from mtp_code.data import bench
from mtp_code.data.batches import Mixture, TrainingBatches, validation_batches
from mtp_code.data.config import DataConfig
from mtp_code.data.prepare import prepare
from mtp_code.data.shards import ShardSet, open_shards
from mtp_code.errors import RecipeError, ShardError
from mtp_code.tokenizer import BytesConfig

NUM_DOCUMENTS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def config_for(folder: Path, **options: Any) -> DataConfig:
    sources = {
        name: {"kind": "folder", "path": str(folder / name), "weight": weight}
        for name, weight in (("a", 1), ("b", 3))
    }
    values = {"sources": sources, "validation_share": 0.3} | options
    return validate(DataConfig, values, where="test")


@pytest.fixture(scope="module")
def shards(folder: Path) -> ShardSet:
    for name in "ab":
        (folder / name).mkdir()
        for i in range(NUM_DOCUMENTS):
            text = f"{name}{i} = 'é'\n" * (1 + i % 5)
            (folder / name / f"{i}.py").write_text(text, encoding="utf-8")
    prepare(config_for(folder), BytesConfig(kind="bytes"), folder / "tokens")
    return open_shards(folder / "tokens")


@pytest.fixture(params=["stream", "whole"])
def config(request: pytest.FixtureRequest, folder: Path) -> DataConfig:
    return config_for(folder, packing=request.param)


def batches_of(shards: ShardSet, config: DataConfig, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(shards, config, batch_rows=4, row_tokens=32, num_offsets=3, seed=seed)


def test_batches_have_b_rows_of_t_plus_n(shards: ShardSet, config: DataConfig) -> None:
    batch = batches_of(shards, config).batch(0)
    assert (batch.tokens.shape, batch.tokens.dtype) == ((4, 35), np.int64)
    assert (batch.documents.shape, batch.documents.dtype) == ((4, 35), np.int32)
    assert len(batch.sources) == 4


def test_a_batch_follows_from_seed_and_step_alone(shards: ShardSet, config: DataConfig) -> None:
    from_the_start = batches_of(shards, config)
    expected = [from_the_start.batch(step) for step in range(100)]
    for step in (99, 0, 57, 3):
        resumed = batches_of(shards, config).batch(step)
        np.testing.assert_array_equal(resumed.tokens, expected[step].tokens)
        np.testing.assert_array_equal(resumed.documents, expected[step].documents)
        assert resumed.sources == expected[step].sources
    assert (batches_of(shards, config, seed=1).batch(0).tokens != expected[0].tokens).any()


def test_workers_rows_put_together_are_the_batch(shards: ShardSet, config: DataConfig) -> None:
    batches = batches_of(shards, config)
    whole = batches.batch(5)
    parts = [batches.rows(5 * 4 + worker * 2, 2) for worker in range(2)]
    np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)


def test_rows_are_of_the_source_they_name(shards: ShardSet, config: DataConfig) -> None:
    for step in range(20):
        batch = batches_of(shards, config).batch(step)
        for tokens, documents, source in zip(*batch, strict=True):
            text = shards.tokenizer.decode(tokens[documents >= 0].tolist())
            assert set(text) & set("ab") <= {source}


def test_training_rows_hold_no_held_out_document(shards: ShardSet, folder: Path) -> None:
    batches = batches_of(shards, config_for(folder, packing="whole"))
    seen = "|".join(
        shards.tokenizer.decode(row.tolist())
        for step in range(80)
        for row in batches.batch(step).tokens
    )
    for source in "ab":
        for split, expected in (("train", True), ("validation", False)):
            shard = shards.shard(source, split)  # type: ignore[arg-type]
            for i in range(shard.num_documents):
                line = shards.tokenizer.decode(shard.framed(i).tolist()).splitlines()[0] + "\n"
                assert (line in seen) == expected, line


def test_a_source_that_is_not_there_is_one_line(shards: ShardSet, folder: Path) -> None:
    sources = {"c": {"kind": "folder", "path": str(folder / "a")}}
    config = validate(DataConfig, {"sources": sources}, where="test")
    with pytest.raises(ShardError, match="has no source 'c'"):
        batches_of(shards, config)


weights = st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 100), min_size=1, max_size=5)


@given(weights, st.integers(0, 500))
def test_mixture_counts_each_sources_rows_from_zero(
    weights: dict[str, float], num_rows: int
) -> None:
    mixture = Mixture(weights)
    counted: Counter[str] = Counter()
    for row in range(num_rows):
        source, index = mixture.locate(row)
        assert index == counted[source]
        counted[source] += 1
    for source, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(counted[source] - share * num_rows) < len(weights)


def test_mixture_of_one_part_in_four_takes_every_fourth_row() -> None:
    mixture = Mixture({"a": 1, "b": 3})
    assert "".join(mixture.locate(row)[0] for row in range(12)) == "bbbabbbabbba"


class TestValidation:
    def read(self, shards: ShardSet, max_tokens: int) -> Any:
        validation = validation_batches(shards, "a", 4, 32, 3, max_tokens)
        assert validation is not None
        return validation

    def num_labels(self, shards: ShardSet, max_tokens: int) -> int:
        return sum(
            int(((b.documents[:, :32] == b.documents[:, 1:33]) & (b.documents[:, :32] >= 0)).sum())
            for b in self.read(shards, max_tokens).batches
        )

    def test_all_of_it_covers_each_token_once_and_all_bytes(self, shards: ShardSet) -> None:
        record = shards.manifest.sources["a"].validation
        assert self.num_labels(shards, 10**9) == record.num_tokens
        assert self.read(shards, 10**9).num_bytes == record.num_bytes

    def test_guessing_bytes_evenly_costs_eight_bits_each(self, shards: ShardSet) -> None:
        record = shards.manifest.sources["a"].validation
        nats = math.log(256) * (self.num_labels(shards, 10**9) - record.num_documents)
        assert nats / math.log(2) / self.read(shards, 10**9).num_bytes == pytest.approx(8)

    def test_a_part_of_it_is_spread_and_within_its_size(self, shards: ShardSet) -> None:
        part, whole = self.read(shards, 5 * 32), self.read(shards, 10**9)
        assert 0 < part.num_bytes <= 5 * 32
        rows = [row.tolist() for batch in part.batches for row in batch.tokens][:5]
        of_whole = [row.tolist() for batch in whole.batches for row in batch.tokens]
        places = [of_whole.index(row) for row in rows]
        assert places == sorted(places)
        assert places[-1] > len(of_whole) / 2

    def test_is_the_same_every_time(self, shards: ShardSet) -> None:
        for one, other in zip(
            self.read(shards, 256).batches, self.read(shards, 256).batches, strict=True
        ):
            np.testing.assert_array_equal(one.tokens, other.tokens)

    def test_all_batches_have_one_shape(self, shards: ShardSet) -> None:
        assert {batch.tokens.shape for batch in self.read(shards, 5 * 32).batches} == {(4, 35)}

    def test_a_source_with_nothing_held_out_has_none(self, folder: Path, shards: ShardSet) -> None:
        out = folder / "all-training"
        prepare(config_for(folder, validation_share=0), BytesConfig(kind="bytes"), out)
        assert validation_batches(open_shards(out), "a", 4, 32, 3, 1000) is None


def with_epochs(folder: Path, a: float, b: float, packing: str = "stream") -> DataConfig:
    config = config_for(folder, packing=packing)
    epochs = {"a": a, "b": b}
    sources = {
        name: corpus.model_dump() | {"epochs": epochs[name]}
        for name, corpus in config.sources.items()
    }
    return validate(DataConfig, config.model_dump() | {"sources": sources}, where="test")


@pytest.mark.parametrize("packing", ["stream", "whole"])
def test_sources_are_read_as_often_as_their_epochs_say(
    shards: ShardSet, folder: Path, packing: str
) -> None:
    batches = batches_of(shards, with_epochs(folder, 1, 3, packing))
    epochs = batches.epochs(50)
    assert epochs["b"] / epochs["a"] == pytest.approx(3)
    found = Counter(source for step in range(50) for source in batches.batch(step).sources)
    equally = batches_of(shards, with_epochs(folder, 1, 1, packing)).epochs(50)
    assert equally["a"] == pytest.approx(equally["b"])
    rows = {name: found[name] / epochs[name] for name in epochs}
    assert sum(rows.values()) == pytest.approx(200 / equally["a"], rel=0.02)


def test_epochs_are_said_for_all_sources_or_none(folder: Path) -> None:
    sources = {
        name: {"kind": "folder", "path": str(folder / "a")} | more
        for name, more in (("a", {"epochs": 2}), ("b", {}))
    }
    with pytest.raises(RecipeError, match=r"sources\.a says epochs and sources\.b does not"):
        validate(DataConfig, {"sources": sources}, where="test")


def test_tokens_that_the_tokenizer_does_not_have_are_refused(
    shards: ShardSet, config: DataConfig
) -> None:
    batches = batches_of(shards, config)
    batches._vocab_size = 200
    with pytest.raises(
        ShardError, match=r"[ab]\.train\.bin from .* is token 256, the vocabulary has 200"
    ):
        batches.batch(0)


def test_where_rows_are_told_to_begin_they_are(shards: ShardSet, config: DataConfig) -> None:
    """In the fourth epoch or so; as anybody can look it up."""
    batches = batches_of(shards, config)
    batch = batches.batch(99)
    for row, place in enumerate(batches.places(99).split("; ")):
        found = re.fullmatch(r"(.+) from token (\d+) \(document (\d+), its token (\d+)\)", place)
        assert found is not None, place
        first, document, start = (int(number) for number in found.groups()[1:])
        of_first = batch.tokens[row][batch.documents[row] == 0].tolist()
        file = np.fromfile(found[1], shards.manifest.token_type)[first:]
        assert file[: len(of_first)].tolist() == of_first
        assert Path(found[1]).name == f"{batch.sources[row]}.train.bin"
        framed = shards.shard(batch.sources[row], "train").framed(document)[start:]
        assert framed[: len(of_first)].tolist() == of_first
    assert row == 3


def test_of_many_rows_a_few_are_told(shards: ShardSet, config: DataConfig) -> None:
    batches = TrainingBatches(shards, config, 9, row_tokens=32, num_offsets=3, seed=0)
    assert batches.places(0).count("from token") == 4
    assert batches.places(0).endswith("; and 5 more rows")


def test_the_speed_of_batches_is_measured_for_each_packing(tmp_path: Path) -> None:
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(f'{{"text": "x{i} = {i}"}}\n' for i in range(300)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "NUM_BATCHES", 2)
        patch.setattr(bench, "BATCH_ROWS", 2)
        found = bench.batches_per_cpu_s(corpus, (), rounds=1)
    assert list(found) == ["stream", "whole"]
    assert all(1e3 < speed < 1e9 for speed in found.values())
