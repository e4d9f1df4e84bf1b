"""What several commands take, said once."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

import typer

import evals.errors
from mtp_code.devices import TORCH_NAMES, DeviceName, DtypeName
from mtp_code.errors import did_you_mean
from sandbox import Tier

T = TypeVar("T")

_DEVICES: Final[tuple[DeviceName, ...]] = get_args(DeviceName)
_DTYPES: Final[dict[str, DtypeName]] = {
    given: short for short, long in TORCH_NAMES.items() for given in (short, long)
}
_KEYWORD: Final = inspect.Parameter.VAR_KEYWORD


def takes_options_of(other: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """A command's own options, and in place of its `**options` those of another that it hands on.

    What both have is the command's own.
    """

    def decorate(command: Callable[..., Any]) -> Any:
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.kind is not _KEYWORD]
        theirs = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, each in inspect.signature(other).parameters.items()
            if name not in signature.parameters
        ]
        command.__signature__ = signature.replace(parameters=[*own, *theirs])  # type: ignore[attr-defined]
        return command

    return decorate


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a recipe's value."),
]


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or TOML file.")]


RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


ModelDir = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run folder, an export, or a model of transformers."),
]


TokensDir = Annotated[
    Path | None, typer.Option("--tokens", help="Token shards. [default: tokens/RECIPE]")
]


BenchmarkName = Annotated[
    str,
    typer.Option(
        "--benchmark",
        help="humaneval, humaneval+, mbpp, mbpp-sanitized, mbpp+, apps-LEVEL, micro, micro-hard, "
        "or a JSON Lines file of tasks.",
    ),
]


PromptFormatName = Annotated[
    str | None, typer.Option(help="How questions are put. [default: the benchmark's]")
]


PostProcessingName = Annotated[
    str | None, typer.Option(help="From answers to code. [default: the format's]")
]


InTier = Annotated[
    Tier,
    typer.Option("--tier", help="How strongly code is contained.", callback=lambda t: held(t)),
]


KOption = Annotated[
    list[int] | None, typer.Option(metavar="K", min=1, help="Repeatable. [default: 1]")
]


NumThreads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


Device = Annotated[
    DeviceName,
    typer.Option(
        help="Where the model runs: auto, cpu or cuda; auto: on a GPU where there is one.",
        metavar="NAME",
        parser=lambda given: _named("--device", given, {name: name for name in _DEVICES}),
    ),
]


Dtype = Annotated[
    DtypeName,
    typer.Option(
        help="Number format: fp32, bf16, fp16, or torch's names for them; auto: bf16 on a GPU, "
        "fp32 on a CPU.",
        metavar="NAME",
        parser=lambda given: _named("--dtype", given, _DTYPES),
    ),
]


def to_write(*names: str, what: str = "JSON file to write.") -> Any:
    """An option that takes a file to write.

    One whose place no file may take is refused before the work is done, not when it is lost. So is
    one for which a tree of folders would have to be made.
    """

    def see_to_it(path: Path | None) -> Path | None:
        from evals.files import require_near

        if path is not None:
            require_near(path)
        return path

    return typer.Option(*names, help=what, callback=see_to_it)


JsonOut = Annotated[Path | None, to_write("--json")]


NoSandbox = Annotated[
    bool,
    typer.Option(
        "--unsafe-no-sandbox", help="Run untrusted code uncontained; marked in every verdict."
    ),
]


def held(tier: Tier) -> Tier:
    if tier is Tier.NONE:
        raise evals.errors.InputError("--tier none: say --unsafe-no-sandbox if you mean it")
    return tier


def sizes_of(given: str, most: int) -> list[int]:
    """Of `--batches`: numbers with commas."""
    sizes = [int(size) if size.isdecimal() else 0 for size in given.split(",")]
    if not 1 <= min(sizes) <= max(sizes) <= most:
        raise evals.errors.InputError(
            f"--batches {given}: expected sizes of 1 to {most} with commas, as in 1,4,16"
        )
    return sizes


def named_of(option: str, given: str | None, known: Mapping[str, T]) -> Mapping[str, T]:
    """What a list with commas names, by name; all that is known if it is not given."""
    if given is None:
        return known
    for name in given.split(","):
        if name not in known:
            raise evals.errors.InputError(f"{option} {given}: {name!r}{did_you_mean(name, known)}")
    return {name: known[name] for name in given.split(",")}


def _named(option: str, given: str, known: Mapping[str, T]) -> T:
    if given not in known:
        raise evals.errors.InputError(f"{option} {given}: expected one of {', '.join(known)}")
    return known[given]
