"""Two processes on gloo against one: gradients, collectives, optimizers, checkpoints, runs."""

import datetime
import errno
import gc
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from mtp_code import shard_files
from mtp_code.checkpoint import (
    TrainingState,
    checkpoint_path,
    latest_checkpoint,
    load_state,
    load_weights,
)
from mtp_code.checkpoint import save_checkpoint as save
from mtp_code.data.prepare import prepare
from mtp_code.data.shards import open_shards
from mtp_code.errors import AskedToEnd, CheckpointError, PeerError, RecipeError
from mtp_code.model.accounting import count_parameters
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model, outline
from mtp_code.processes import ALONE, World, is_sharded, joined, whole_tensor
from mtp_code.recipe import Recipe, load_recipe
from mtp_code.training.config import OptimConfig, ShardingConfig, TrainingConfig
from mtp_code.training.distributed import (
    BY_LAYER,
    Parallel,
    clip_gradients,
    give_fresh_weights,
    is_to_be_sharded,
    parallelize,
    rows_of_process,
)
from mtp_code.training.loop import Progress, train
from mtp_code.training.memory import PARTS, Part, follow_steps, predict_peak, run_steps
from mtp_code.training.metrics import read_metrics
from mtp_code.training.objective import backward_by_head, count_labels
from mtp_code.training.optim import build_optimizers
from mtp_code.training.placement import Placement, prepare_layers
from mtp_code.training.schedule import learning_rate_share
from tests import processes
from tests.mtp_code.training.test_loop import recipe_for
from tests.mtp_code.training.test_memory import allocator_peak

ROWS, MICRO_ROWS, CLIP = 4, 1, 0.5
MODELS: dict[str, dict[str, Any]] = {
    "parallel": {"heads": "parallel"},
    "causal, tied": {"heads": "causal", "tied_embeddings": True},
    "anticausal": {"heads": "anticausal"},
    "linear, replicated": {"heads": "linear", "replicated_unembeddings": True},
    "sequential, tied": {"heads": "sequential", "tied_embeddings": True},
}
REPLICATED = ("parallel", "sequential, tied")
"""What ddp is tried with: it adds up gradients, whatever model they are of."""
KINDS = ("ddp", "fsdp")
CPU = torch.device("cpu")
IN_FP32, IN_BF16 = (
    Placement(CPU, precision, "dense", compiles=False) for precision in ("fp32", "bf16")
)


SHARDINGS = {
    "layers, two ahead": ShardingConfig(prefetch=2),
    "layers, none ahead": ShardingConfig(prefetch=0),
    "weights kept": ShardingConfig(keep_weights=True),
    "reduced once": ShardingConfig(reduce_once=True),
    "kept, reduced once": ShardingConfig(keep_weights=True, reduce_once=True),
}


GATHER, REDUCE_SCATTER, ALL_REDUCE = "all-gather", "reduce-scatter", "all-reduce"
COLLECTIVES = {
    "_allgather_base_": GATHER,
    "all_gather_into_tensor": GATHER,
    "_reduce_scatter_base_": REDUCE_SCATTER,
    "reduce_scatter_tensor": REDUCE_SCATTER,
    "allreduce_": ALL_REDUCE,
}
NO_MESSAGE = ("wait_tensor", "_wrap_tensor_autograd")


class Messages(TorchDispatchMode):
    """Counts collectives by name. (torch's CommDebugMode loses its way among several backwards.)

    Attributes:
        ahead: gathers before anything is multiplied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.ahead: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace and func._opname not in NO_MESSAGE:
            # What is not expected counts by its own name.
            self.counts[COLLECTIVES.get(func._opname, func._opname)] += 1
        if self.ahead is None and func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.ahead = self.counts[GATHER]
        return func(*args, **(kwargs or {}))


def config_of(name: str) -> ModelConfig:
    return ModelConfig(
        vocab_size=37, width=16, num_layers=5, num_attn_heads=2, ffn_width=24, num_mtp_heads=3,
        context=16, **MODELS[name],
    )  # fmt: skip


def batch_for(num_offsets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with different numbers of labels, so that means over processes would be wrong."""
    generator = torch.Generator().manual_seed(3)
    tokens_BS = torch.randint(0, 37, (ROWS, 12 + num_offsets), generator=generator)
    documents_BS = torch.zeros_like(tokens_BS)
    documents_BS[0, 5:] = -1
    documents_BS[1, 7:] = 1
    return tokens_BS, documents_BS


def parallel_for(
    name: str,
    kind: str,
    world: World,
    sharding: ShardingConfig = BY_LAYER,
    placement: Placement = IN_FP32,
) -> Parallel:
    """A model of seed 1, begun as a run begins it: to be sharded, from its outline.

    In bf16 with layers recomputed, as 7b-200b and 13b are trained.
    """
    is_sharded = is_to_be_sharded(kind, world)
    model = outline(config_of(name)) if is_sharded else build_model(config_of(name), seed=1)
    checkpointing = "blocks" if placement is IN_BF16 else "none"
    training = TrainingConfig(row_tokens=12, rows=ROWS, activation_checkpointing=checkpointing)
    prepare_layers(model, training, placement)
    parallel = parallelize(model, kind, world, CPU, sharding)
    if is_sharded:
        give_fresh_weights(model, seed=1)
    return parallel


def backward(parallel: Parallel, world: World, placement: Placement = IN_FP32) -> None:
    """A step's gradients, in micro-batches of a row."""
    model = parallel.model
    tokens_BS, documents_BS = batch_for(model.num_mtp_heads)
    num_labels_K = count_labels(model.num_mtp_heads, tokens_BS, documents_BS)
    with placement.autocast(), parallel.step():
        for row in rows_of_process(ROWS, world):
            part = slice(row, row + MICRO_ROWS)
            backward_by_head(model, tokens_BS[part], documents_BS[part], num_labels_K, True)


def step(parallel: Parallel, world: World, placement: Placement = IN_FP32) -> dict[str, Any]:
    """One step: gradients, norm and what was sent."""
    with Messages() as messages:
        backward(parallel, world, placement)
    gradients = {
        name: whole_tensor(parameter.grad).clone()
        for name, parameter in parallel.model.named_parameters()
        if parameter.grad is not None
    }
    return {
        "gradients": gradients,
        "messages": messages.counts,
        "ahead": messages.ahead,
        "norm": clip_gradients(parallel.model.parameters(), CLIP),
    }


def trained(kind: str, world: World, optim: str, folder: Path | None = None) -> dict[str, Any]:
    """Weights after two steps, with a checkpoint behind the first."""
    parallel = parallel_for("causal, tied", kind, world)
    model = parallel.model
    optimizers = build_optimizers(model, OptimConfig(kind=optim, lr=1e-2))
    for number in (1, 2):
        backward(parallel, world)
        clip_gradients(model.parameters(), CLIP)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if number == 1 and folder is not None:
            state = TrainingState(step=1, num_tokens=2, cpu_s=0, elapsed_s=0)
            save(folder, model, optimizers, state, keep_last=2, world=world)
    return weights_of(model)


def went_on(kind: str, world: World, optim: str, folder: Path) -> dict[str, Any]:
    """Weights after the second step, from the checkpoint behind the first."""
    model = build_model(config_of("causal, tied"), seed=2)
    parallel = parallelize(model, kind, world, CPU)
    optimizers = build_optimizers(model, OptimConfig(kind=optim, lr=1e-2))
    path = checkpoint_path(folder, 1)
    load_weights(path, model, world)
    assert load_state(path, optimizers, world).num_tokens == 2
    backward(parallel, world)
    clip_gradients(model.parameters(), CLIP)
    for optimizer in optimizers:
        optimizer.step()
    return weights_of(model)


def weights_of(model: MTPModel) -> dict[str, torch.Tensor]:
    return {name: whole_tensor(p.detach()).clone() for name, p in model.named_parameters()}


def in_two(rank: int, folder: Path) -> None:
    """All that the tests below look at, computed by two processes at once."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    world = World(rank, 2, rank, 2, dist.new_group(timeout=datetime.timedelta(minutes=2)))
    found: dict[Any, Any] = {}
    for kind in KINDS:
        for name in MODELS if kind == "fsdp" else REPLICATED:
            parallel = parallel_for(name, kind, world)
            found[kind, name] = {"begun": weights_of(parallel.model)} | step(parallel, world)
        for optim in ("adamw", "muon"):
            found[kind, optim] = trained(kind, world, optim, folder / f"{kind}-{optim}")
    for kind in KINDS:
        for before in (*KINDS, "alone"):
            found["on", before, kind] = went_on(kind, world, "muon", folder / f"{before}-muon")
    for name, sharding in SHARDINGS.items():
        parallel = parallel_for("parallel", "fsdp", world, sharding)
        backward(parallel, world)  # what it leaves must not be in the way of the next
        parallel.model.zero_grad()
        found[name] = step(parallel, world)
    for name in ("parallel", "sequential, tied"):
        parallel = parallel_for(name, "fsdp", world, placement=IN_BF16)
        found["bf16, recomputed", name] = step(parallel, world, IN_BF16)
    found["full disk"] = on_a_full_disk(world, folder / "full")
    found["memory"] = peaks_of(world, SHARDED)
    found["errors"] = errors_of(world)
    found["runs"] = runs_of(world, folder)
    torch.save(found, folder / f"found-{rank}.pt")
    dist.destroy_process_group()


def on_a_full_disk(world: World, folder: Path) -> tuple[str, int | None]:
    """What each process is told when there is no room for the second one's shards."""
    parallel = parallel_for("causal, tied", "fsdp", world)
    model, writer = parallel.model, shard_files.HuggingFaceStorageWriter
    optimizers = build_optimizers(model, OptimConfig(kind="adamw", lr=1e-2))

    def keep(number: int) -> None:
        state = TrainingState(step=number, num_tokens=0, cpu_s=0, elapsed_s=0)
        save(folder, model, optimizers, state, keep_last=1, world=world)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keep(1)
    with patch.object(writer, "write_data", full if world.rank == 1 else writer.write_data):
        try:
            keep(2)
        except OSError as error:
            return str(error), error.errno
    return "nothing", None


SMALL = (
    "model.vocab_size=1000", "model.width=64", "model.num_mtp_heads=2", "model.ffn_width=172",
    "model.qk_norm=false",
    "optim.kind=adamw", "training.row_tokens=64", "training.rows=4", "training.micro_batches=4",
    "training.mask_documents=false", "training.objective.logits_mib=0.25",
)  # fmt: skip
SHARDED = load_recipe("tiny", [*SMALL, "model.num_layers=4", "training.parallel=fsdp"])
# Bytes that torch's allocator hands out and the tracker does not see.
ALLOCATED_BESIDE = 64 * 1024


def peaks_of(world: World, asked: Recipe) -> dict[str, Any]:
    """What training steps hold: by our tracker, by torch's allocator, and of the model itself."""
    placement = Placement(CPU, "fp32", "dense", compiles=False)
    held: Counter[str] = Counter()

    def mark(tensors: Iterable[torch.Tensor], part: Part) -> None:
        own = [t.to_local() if is_sharded(t) else t for t in tensors]
        held[part] = sum(tensor.untyped_storage().nbytes() for tensor in own)

    def allocated() -> int:
        gc.collect()  # what an earlier run left would be taken off if it went meanwhile
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run_steps(asked, placement, mark, world)
        return allocator_peak(profiler)

    # It fills the cache of sharded operations' shapes too, whose making the tracker would see.
    peaks = [allocated()]
    followed = follow_steps(asked, placement, world)
    # On a busy machine gloo's threads let go late of what they have sent: it is tried again, by all
    # processes if by one.
    for _ in range(9):
        is_more = torch.tensor(
            min(peaks) - followed.total_bytes > ALLOCATED_BESIDE, dtype=torch.int
        )
        dist.all_reduce(is_more)
        if not is_more:
            break
        peaks.append(allocated())
    return {
        "allocated": min(peaks),
        "followed": followed.bytes_by_part,
        "held": held,
    }


def recipe_of_run(folder: Path) -> Recipe:
    return recipe_for(folder, num_steps=4, checkpoint_every=2, validate_every=2)


def run_until_it_hangs(folder: Path, told: Connection) -> None:
    """Stops the lead behind step 3, as its peer waits for it in the middle of the fourth."""
    torch.set_num_threads(1)

    def tell(progress: Progress) -> None:
        if progress.step == 3:
            told.send("hangs")
            signal.pause()

    with joined() as world:
        telling = tell if world.is_lead else lambda progress: None
        shards = open_shards(folder / "tokens")
        train(recipe_of_run(folder), shards, folder / "killed", telling, world)


def launch_two(folder: Path, told: Connection) -> None:
    """What torchrun does, by its own launcher, but that its workers need not import anything."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="killed", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork",
    )  # fmt: skip
    elastic_launch(config, run_until_it_hangs)(folder, told)


def kill_a_run_of_two(folder: Path) -> None:
    """As it hangs behind its checkpoint, all its processes get SIGKILL."""
    context = processes.that_train()
    hangs, told = context.Pipe(duplex=False)
    launcher = context.Process(target=launch_two, args=(folder, told))
    launcher.start()
    told.close()
    workers: list[int] = []
    try:
        assert hangs.recv() == "hangs"
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        assert len(workers) == 2
    finally:
        launcher.kill()  # first, or it would end them its way
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        launcher.join()


def runs_of(world: World, folder: Path) -> list[str]:
    """A run to its end, a killed one to its end, and one that is asked to end and goes on."""
    shards = open_shards(folder / "tokens")
    for name in ("to-the-end", "killed"):
        train(recipe_of_run(folder), shards, folder / name, world=world)
    told = []

    def ask(step: int, schedule: Any) -> float:
        if step == 0 and world.rank == 1:
            signal.raise_signal(signal.SIGTERM)
        return learning_rate_share(step, schedule)

    with patch("mtp_code.training.loop.learning_rate_share", ask):
        try:
            train(recipe_of_run(folder), shards, folder / "asked", world=world)
        except AskedToEnd as ended:
            told.append(str(ended))
    train(recipe_of_run(folder), shards, folder / "asked", world=world)
    return told


def errors_of(world: World) -> list[str]:
    """What each process is told when the second one fails, and when the lead does."""

    def fail(rank: int) -> Callable[[], None]:
        def make() -> None:
            if world.rank == rank:
                raise RecipeError(f"{rank} is wrong")

        return make

    errors = []
    for attempt in (
        lambda: world.everywhere(fail(1)),
        lambda: world.from_lead(fail(0)),
        lambda: parallelize(build_model(config_of("parallel"), 1), "none", world, CPU),
        lambda: rows_of_process(3, world),
    ):
        try:
            attempt()
        except (PeerError, RecipeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[Any, Any]]:
    """By rank."""
    trained("none", ALONE, "muon", folder / "alone-muon")
    lines = [{"text": f"def f{i}(x):\n    return x + {i}\n" * 3} for i in range(80)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = recipe_of_run(folder)
    prepare(recipe.data, recipe.tokenizer, folder / "tokens")
    kill_a_run_of_two(folder)
    shutil.copytree(folder / "killed", folder / "killed-for-one")
    processes.that_train()
    mp.start_processes(in_two, (folder,), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(2)]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp(min=1e-12)
        assert error < 1e-6, f"{name}: {error}"


@pytest.mark.parametrize(
    "kind, name",
    [*(("ddp", name) for name in REPLICATED), *(("fsdp", name) for name in MODELS)],
)
def test_gradients_of_two_processes_are_those_of_one(found, kind, name):
    expected = step(parallel_for(name, "none", ALONE), ALONE)
    for rank in range(2):
        assert_close(found[rank][kind, name]["gradients"], expected["gradients"])
        assert found[rank][kind, name]["norm"].item() == pytest.approx(
            expected["norm"].item(), rel=1e-6
        )
    assert expected["norm"] > CLIP, "or clipping would be no part of what is compared"


@pytest.mark.parametrize("name", MODELS)
def test_shards_begin_with_the_weights_of_a_whole_model_bit_for_bit(found, name):
    whole = weights_of(build_model(config_of(name), seed=1))
    for rank in range(2):
        begun = found[rank]["fsdp", name]["begun"]
        assert begun.keys() == whole.keys()
        assert all(torch.equal(begun[key], weight) for key, weight in whole.items())


@pytest.mark.parametrize("name", SHARDINGS)
def test_what_memory_is_paid_for_changes_no_gradient(found, name):
    for rank in range(2):
        assert_close(found[rank][name]["gradients"], found[rank]["fsdp", "parallel"]["gradients"])


@pytest.mark.parametrize("name", ["parallel", "sequential, tied"])
def test_sharded_and_recomputed_in_bf16_gradients_are_those_of_one_process(found, name):
    parallel = parallel_for(name, "none", ALONE, placement=IN_BF16)
    expected = step(parallel, ALONE, IN_BF16)["gradients"]
    for rank in range(2):
        assert_close(found[rank]["bf16, recomputed", name]["gradients"], expected)
    in_fp32 = found[0]["fsdp", name]["gradients"]
    assert any(not torch.allclose(in_fp32[key], value) for key, value in expected.items())


SHARED = 3
"""Embedding, norm and unembedding: gathered once and reduced once a step, whatever layers are."""
TRUNK, HEADS, MICRO_BATCHES = 2, 3, ROWS // 2 // MICRO_ROWS
EACH_TIME = {
    GATHER: SHARED + (2 * TRUNK + HEADS) * MICRO_BATCHES,
    REDUCE_SCATTER: SHARED + (TRUNK + HEADS) * MICRO_BATCHES,
}
ONCE = SHARED + TRUNK + HEADS


@pytest.mark.parametrize(
    "name, expected",
    [
        (("fsdp", "parallel"), EACH_TIME),
        ("layers, two ahead", EACH_TIME),
        ("layers, none ahead", EACH_TIME),
        ("weights kept", EACH_TIME | {GATHER: ONCE}),
        ("reduced once", EACH_TIME | {REDUCE_SCATTER: ONCE}),
        ("kept, reduced once", {GATHER: ONCE, REDUCE_SCATTER: ONCE}),
    ],
    ids=str,
)
def test_what_is_sent_in_a_step(found, name, expected):
    """A layer of the trunk is gathered for its forward and its backward, a head for both."""
    assert config_of("parallel").num_layers == TRUNK + HEADS
    for rank in range(2):
        assert found[rank][name]["messages"] == expected


@pytest.mark.parametrize(
    "name, shared, trunk, heads, read",
    [
        ("causal, tied", 2, 2, 3, 2),
        ("anticausal", 3, 2, 3, 2),
        ("sequential, tied", 2, 3, 2, 1),
    ],
)
def test_heads_of_a_chain_are_gathered_once_more_where_another_reads_them(
    found, name, shared, trunk, heads, read
):
    """For the forward without a graph; and for forward and backward each, as the trunk's layers.

    Head 1 of sequential heads is the trunk's states, and no layer.
    """
    for rank in range(2):
        assert found[rank]["fsdp", name]["messages"] == {
            GATHER: shared + (2 * trunk + read + 2 * heads) * MICRO_BATCHES,
            REDUCE_SCATTER: shared + (trunk + heads) * MICRO_BATCHES,
        }


@pytest.mark.parametrize(
    "name, num_ahead",
    [("layers, none ahead", 0), (("fsdp", "parallel"), 1), ("layers, two ahead", 2)],
    ids=str,
)
def test_so_many_layers_are_gathered_ahead_of_the_one_that_computes(found, name, num_ahead):
    assert found[0][name]["ahead"] == SHARED + 1 + num_ahead


def test_memory_of_a_process_is_predicted_on_a_group_that_is_not_there(found):
    predicted = predict_peak(SHARDED, "cpu", num_processes=2)
    seen = found[0]["memory"]
    for part in PARTS:
        assert abs(predicted.bytes_by_part[part] - seen["followed"][part]) < 256, part
    assert abs(predicted.total_bytes - seen["allocated"]) <= ALLOCATED_BESIDE
    assert predicted.bytes_by_part["parameters"] == seen["held"]["parameters"]
    assert predicted.bytes_by_part["optimizer"] == seen["held"]["optimizer"]
    embeddings_and_a_layer = 4 * (2 * 1000 * 64 + 64 + 4 * 64 * 64 + 3 * 64 * 172 + 2 * 64)
    assert predicted.bytes_by_part["gathered"] >= embeddings_and_a_layer
    assert seen["held"]["parameters"] == 4 * count_parameters(SHARDED.model).total / 2


@pytest.mark.thorough
def test_weights_that_are_kept_are_predicted_to_cost_what_they_take():
    """4 bytes a parameter of all layers but the one that lies there anyway."""
    by_layer, kept = (
        predict_peak(
            load_recipe("tiny", [*SMALL, "model.num_layers=5", "training.parallel=fsdp", *more]),
            "cpu",
            num_processes=4,
        ).total_bytes
        for more in ((), ("training.fsdp.keep_weights=true",))
    )
    layer_bytes = 4 * (4 * 64 * 64 + 3 * 64 * 172 + 2 * 64)
    assert kept - by_layer == pytest.approx(4 * layer_bytes, abs=layer_bytes)


def test_replicas_add_up_once_a_step(found):
    for name in REPLICATED:
        assert found[0]["ddp", name]["messages"] == {ALL_REDUCE: 1}


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_two_processes_end_where_those_of_one_do(found, kind, optim):
    expected = trained("none", ALONE, optim)
    for rank in range(2):
        for name, weight in expected.items():
            # AdamW divides by gradients' size, near 0 too: rounding is not small in each number.
            torch.testing.assert_close(
                found[rank][kind, optim][name], weight, rtol=1e-3, atol=1e-4, msg=name
            )


@pytest.mark.parametrize("now", KINDS)
@pytest.mark.parametrize("before", [*KINDS, "alone"])
def test_a_checkpoint_goes_on_in_two_processes_whoever_wrote_it(found, before, now):
    expected = found[0].get((before, "muon")) or trained("none", ALONE, "muon")
    for rank in range(2):
        weights = found[rank]["on", before, now]
        for name, weight in expected.items():
            if before == now:
                assert torch.equal(weights[name], weight), name
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("before", KINDS)
def test_a_checkpoint_of_two_processes_goes_on_in_one(found, folder, before):
    weights = went_on("none", ALONE, "muon", folder / f"{before}-muon")
    for name, weight in found[0][before, "muon"].items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_a_changed_shard_is_refused_by_its_name(found, folder):
    path = checkpoint_path(folder / "fsdp-adamw", 1)
    shard = path / "model/shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    model = build_model(config_of("causal, tied"), seed=2)
    with pytest.raises(CheckpointError, match=r"model/shard-00002.*: changed since it was written"):
        load_weights(path, model)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"model/shard-00002.*: cannot be read"):
        load_weights(path, model)


def test_without_room_for_one_processs_shards_all_are_told_and_the_checkpoint_before_stands(
    found, folder
):
    for rank in range(2):
        told, number = found[rank]["full disk"]
        assert number == errno.ENOSPC
        assert "No space left on device" in told
        assert "step-00000002" in told
    names = [path.name for path in (folder / "full/checkpoints").iterdir()]
    assert [name for name in names if not name.startswith(".")] == ["step-00000001"]
    load_weights(checkpoint_path(folder / "full", 1), build_model(config_of("causal, tied"), 2))


def test_what_fails_in_one_process_fails_in_all_and_one_says_why(found):
    wrong = [
        "training.parallel = none, but there are 2 processes; choose ddp or fsdp",
        "training.rows = 3 is no multiple of the 2 processes; start another number of them, or "
        "change it",
    ]
    told = [f"RecipeError: {message}" for message in wrong]
    assert found[0]["errors"] == ["PeerError: process 1 failed", "RecipeError: 0 is wrong", *told]
    assert found[1]["errors"] == ["RecipeError: 1 is wrong", "PeerError: process 0 failed", *told]


def losses_of(run_dir: Path) -> list[tuple[str, int, list[float]]]:
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [(row["kind"], row["step"], row["loss_by_offset"]) for row in rows]


def assert_same_to_rounding(run_dir: Path, other_dir: Path) -> None:
    for found, expected in zip(losses_of(run_dir), losses_of(other_dir), strict=True):
        assert found[:2] == expected[:2]
        assert found[2] == pytest.approx(expected[2], rel=1e-3)


@pytest.fixture(scope="module")
def alone(found: list[dict[Any, Any]], folder: Path) -> Path:
    """The run of one process that nobody disturbed."""
    train(recipe_of_run(folder), open_shards(folder / "tokens"), folder / "alone")
    return folder / "alone"


def test_a_run_of_two_processes_is_that_of_one_also_where_one_was_asked_to_end(
    found, folder, alone
):
    """Asked in the first step, both end behind it."""
    assert losses_of(folder / "asked") == losses_of(folder / "to-the-end")
    assert_same_to_rounding(folder / "to-the-end", alone)
    for rank in range(2):
        (told,) = found[rank]["runs"]
        assert "ended at step 1 of 4" in told


def test_killed_in_the_middle_of_a_step_two_processes_go_on_bit_for_bit(found, folder):
    assert losses_of(folder / "killed") == losses_of(folder / "to-the-end")


def test_a_run_of_two_processes_that_was_killed_goes_on_in_one(found, folder, alone):
    run_dir = folder / "killed-for-one"
    newest = latest_checkpoint(run_dir)
    assert newest == checkpoint_path(run_dir, 2), "killed behind step 3, of 4"
    assert (newest / "model").is_dir(), "written by two"
    train(recipe_of_run(folder), open_shards(folder / "tokens"), run_dir)
    assert_same_to_rounding(run_dir, alone)
