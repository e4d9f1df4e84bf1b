"""The issue's bounds on memory, held without a GPU."""

from functools import cache
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mtp_code.recipe import Recipe, load_recipe
from mtp_code.training.memory import (
    PARTS,
    StorageTracker,
    follow_steps,
    predict_peak,
    run_steps,
)
from mtp_code.training.placement import Placement

HEADS = ("parallel", "causal", "anticausal", "linear", "sequential")
KIB, MIB = 2**10, 2**20
ON_CPU = {
    asked: Placement(torch.device("cpu"), precision, "dense", compiles=False)
    for asked, precision in (("auto", "fp32"), ("bf16", "bf16"))
}
CHUNK_BYTES = 128 * MIB


def recipe(**changes: Any) -> Recipe:
    """Four layers of width 64 and a row of 256 tokens, but for changes such as `model__width`."""
    values = {
        "model__vocab_size": 1000, "model__width": 64, "model__num_layers": 4,
        "model__ffn_width": 172, "model__num_mtp_heads": 3, "model__context": 4096,
        "model__qk_norm": "false", "optim__kind": "adamw", "training__row_tokens": 256,
        "training__rows": 1, "training__mask_documents": "false",
        "training__objective__logits_mib": 0.5,
    }  # fmt: skip
    settings = (values | changes).items()
    return load_recipe("tiny", [f"{key.replace('__', '.')}={value}" for key, value in settings])


@cache
def yardstick(num_mtp_heads: int, num_layers: int, vocab_size: int, **changes: Any) -> int:
    """Peak bytes at width 256 on 4,096 tokens, in fp32."""
    shape = {
        "model__width": 256, "model__ffn_width": 688, "training__row_tokens": 4096,
        "training__objective__logits_mib": CHUNK_BYTES / MIB, "model__vocab_size": vocab_size,
        "model__num_mtp_heads": num_mtp_heads, "model__num_layers": num_layers,
    }  # fmt: skip
    return predict_peak(recipe(**shape | changes), "cpu").total_bytes


def allocator_peak(profiler: profile) -> int:
    """What torch's allocator handed out at most, as its own profiler saw it."""
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


SINGLE: list[dict[str, Any]] = [
    *({"model__heads": heads} for heads in HEADS),
    {"training__rows": 6, "training__micro_batches": 3},
    {"training__rows": 2, "training__mask_documents": "true"},
    {"optim__kind": "muon", "model__qk_norm": "true"},
    {"training__precision": "bf16"},
    {"training__activation_checkpointing": "blocks"},
    {"model__tied_embeddings": "true", "model__num_kv_heads": 2},
    {"model__replicated_unembeddings": "true", "model__num_mtp_heads": 2},
    {"training__objective__distillation__weight": 1.0},
    {"model__token_order_unembedding": "true", "training__objective__token_order__weight": 1.0},
    {"init__run": "runs/before", "init__train": "heads"},
    {"init__run": "runs/before", "init__train": "lora", "init__num_heads_before": 2},
]
PARALLEL, CAUSAL, ANTICAUSAL, LINEAR, SEQUENTIAL = SINGLE[:5]
PARTS_OF_STEPS, MASKED, MUON, BF16, AGAIN, TIED, REPLICATED, DISTILLED, ORDERED = SINGLE[5:14]
NEW_HEADS, LOW_RANK = SINGLE[14:]
TOGETHER = [
    PARALLEL | BF16 | TIED,
    CAUSAL | PARTS_OF_STEPS | REPLICATED,
    ANTICAUSAL | MASKED | ORDERED,
    LINEAR | MUON | DISTILLED,
    SEQUENTIAL | AGAIN,
    NEW_HEADS,
    LOW_RANK | DISTILLED,
]
CASES = [*TOGETHER, *(pytest.param(one, marks=pytest.mark.thorough) for one in SINGLE)]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_what_is_predicted_is_what_torch_allocates(changes):
    asked = recipe(**changes)
    predicted = predict_peak(asked, "cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        followed = follow_steps(asked, ON_CPU[asked.training.precision])
    # The same storages with content and without, but for how many rows some labels leave.
    for part in PARTS:
        assert abs(predicted.bytes_by_part[part] - followed.bytes_by_part[part]) < 256, part
    assert abs(predicted.total_bytes - allocator_peak(profiler)) < 64 * KIB
    assert predicted.total_bytes > 3 * MIB


def test_parts_that_can_be_counted_by_hand():
    asked = recipe()
    peak = predict_peak(asked, "cpu")
    assert tuple(peak.bytes_by_part) == PARTS
    d, f, v = 64, 172, 1000
    matrices = 4 * (4 * d * d + 3 * d * f) + 2 * v * d
    vectors = (2 * 4 + 1) * d
    rotary = 2 * (4096 + 4) * 16
    elements = matrices + vectors
    assert peak.bytes_by_part["parameters"] == 4 * elements
    momentum = 2 * 4 * elements
    counters = 4 * (4 * 6 + 3)
    assert peak.bytes_by_part["optimizer"] == momentum + counters
    assert peak.bytes_by_part["gradients"] <= 4 * elements
    assert peak.bytes_by_part["activations"] > 4 * rotary
    # Logits of a chunk and their log-probabilities.
    rows = int(0.5 * MIB) // (4 * v)
    assert peak.bytes_by_part["logits"] == 2 * 4 * rows * v


@pytest.mark.parametrize(
    "num_mtp_heads, num_layers, vocab_size, at_equal_layers, added",
    [
        (2, 6, 256, 0.95, 1.05),
        (4, 6, 32_000, 0.85, 1.10),
        pytest.param(4, 10, 256, 0.95, 1.05, marks=pytest.mark.thorough),
        pytest.param(8, 10, 32_000, 0.85, 1.10, marks=pytest.mark.thorough),
    ],
)
def test_heads_need_less_at_equal_layers_and_little_more_where_they_are_added(
    num_mtp_heads, num_layers, vocab_size, at_equal_layers, added
):
    next_token = yardstick(1, num_layers, vocab_size)
    assert yardstick(num_mtp_heads, num_layers, vocab_size) <= at_equal_layers * next_token
    with_more = yardstick(num_mtp_heads, num_layers - 1 + num_mtp_heads, vocab_size)
    assert with_more <= added * next_token


LARGER = [
    (1, 32_000, 128_000, {}),
    (4, 4096, 32_000, {}),
    pytest.param(2, 4096, 32_000, {"model__heads": "sequential"}, marks=pytest.mark.thorough),
    (2, 4096, 32_000, {"training__rows": 2, "training__micro_batches": 2}),
    pytest.param(8, 4096, 32_000, {}, marks=pytest.mark.thorough),
    # Few activations: the peak is in the optimizer's step.
    (1, 32_000, 128_000, {"training__row_tokens": 64}),
]


@pytest.mark.parametrize("num_mtp_heads, less, more, changes", LARGER, ids=str)
def test_a_larger_vocabulary_costs_its_weights_and_two_chunks(num_mtp_heads, less, more, changes):
    """Weights, gradients and two states of embedding and unembedding are 8·D a token.

    A chunk has as many positions at both vocabularies, or it would shrink as logits grow.
    """
    rows = 1024
    less_bytes, more_bytes = (
        yardstick(
            num_mtp_heads,
            num_mtp_heads + 1,
            size,
            training__objective__logits_mib=4 * rows * size / MIB,
            **changes,
        )
        for size in (less, more)
    )
    chunk = min(rows, changes.get("training__row_tokens", 4096))
    assert (more_bytes - less_bytes) / 4 <= (8 * 256 + 2 * chunk) * (more - less)


def test_a_larger_vocabulary_costs_as_much_at_any_number_of_heads():
    """Chunks of as many positions, whatever the vocabulary: no offset holds logits of its own."""

    def added_bytes(num_mtp_heads: int) -> int:
        less, more = (
            yardstick(
                num_mtp_heads,
                3,
                vocab_size,
                training__objective__logits_mib=4 * 1024 * vocab_size / MIB,
            )
            for vocab_size in (16_000, 32_000)
        )
        return more - less

    assert added_bytes(2) == added_bytes(1)


def test_the_tracker_sees_what_is_kept():
    with StorageTracker(vocab_size=10) as tracker:
        kept = torch.zeros(1000)
        for _ in range(3):
            passing = torch.ones(500)
            view = passing[:10]
            del passing, view
        half = kept[500:]
        del kept
        torch.ones(100)
    assert tracker.peak().total_bytes == 4 * 1500
    assert half.untyped_storage().nbytes() == 4 * 1000


def test_nothing_outlives_its_run():
    """When the model is gone too, nothing is."""
    tracker = StorageTracker(vocab_size=1000)
    with tracker:
        run_steps(recipe(), ON_CPU["auto"], tracker.mark)
    assert tracker.held_bytes == 0


def test_recomputed_layers_hold_one_layer_instead_of_all():
    shape = {
        "model__num_layers": 6, "training__row_tokens": 2048, "model__num_mtp_heads": 1,
        "training__objective__logits_mib": 4,
    }  # fmt: skip
    kept, again = (
        predict_peak(recipe(**shape, training__activation_checkpointing=choice), "cpu")
        for choice in ("none", "blocks")
    )
    assert again.total_bytes < 0.5 * kept.total_bytes


def test_a_kernel_that_skips_blocks_needs_no_mask():
    shape = {
        "model__num_layers": 3, "model__num_mtp_heads": 2, "training__row_tokens": 2048,
        "training__objective__logits_mib": 4,
    }  # fmt: skip
    documents = shape | {"training__mask_documents": "true"}
    masked, on_gpu, open_rows = (
        predict_peak(recipe(**changes), device).total_bytes
        for changes, device in (
            (documents | {"training__precision": "bf16"}, "cpu"),
            (documents, "cuda"),
            (shape, "cuda"),
        )
    )
    assert masked >= on_gpu + 2048**2
    assert abs(on_gpu - open_rows) < 256 * KIB


def test_a_gpu_gets_larger_chunks_where_the_recipe_names_none():
    asked = load_recipe(
        "tiny",
        [
            "model.vocab_size=60000",
            "model.num_mtp_heads=1",
            "model.num_layers=2",
            "optim.kind=adamw",
            "training.rows=1",
            "training.row_tokens=768",
        ],
    )
    on_cpu, on_gpu = (predict_peak(asked, device).bytes_by_part for device in ("cpu", "cuda"))
    assert on_gpu["logits"] > 5 * on_cpu["logits"]
    assert on_gpu["parameters"] == on_cpu["parameters"]
