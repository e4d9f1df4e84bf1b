"""What draws samples, as the user chose it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mtp_code.errors
from mtp_code.cli.show import warn
from mtp_code.devices import TORCH_NAMES, DeviceName, DtypeName

if TYPE_CHECKING:
    from evals.benchmarks import Benchmark
    from evals.prompts import Chat
    from mtp_code.run_folder import TrainedModel
    from mtp_code.samplers.base import Sampler


class SamplerName(StrEnum):
    MTP = "mtp"
    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    OPENAI = "openai"


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run folder, or a model's; with transformers and vllm its name on the hub too, with "
        "openai its name there.",
    ),
]
SamplerOption = Annotated[
    SamplerName,
    typer.Option(
        "--sampler",
        help="mtp: our engine. transformers, vllm: a model from the hub or disk. openai: an "
        "endpoint that speaks OpenAI's protocol.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Of transformers, vllm: a commit, tag or branch on the hub.")
]
Heads = Annotated[
    Path | None, typer.Option(help="Of vllm: an export's folder heads/, which then drafts.")
]
Endpoint = Annotated[
    str,
    typer.Option(
        help="Of openai: base URL.", envvar="OPENAI_BASE_URL", show_envvar=True, metavar="URL"
    ),
]
ApiKeyEnv = Annotated[
    str, typer.Option(help="Of openai: the environment variable that holds the key.")
]
MaxConcurrent = Annotated[int, typer.Option(min=1, help="Of openai: requests under way at once.")]
RequestsPerMinute = Annotated[
    float | None, typer.Option(min=0.01, help="Of openai. [default: no limit]")
]

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Choice:
    """A sampler and all that it can be told; what is for others is None or a default."""

    sampler: SamplerName
    model: str
    batch_rows: int | None
    revision: str | None
    device: DeviceName
    dtype: DtypeName
    heads: Path | None
    endpoint: str
    api_key_env: str
    max_concurrent: int
    requests_per_minute: float | None

    def build(self) -> "Sampler":
        """
        Raises:
            InputError: an option of another sampler was given, or there is no such model.
            MachineError: what the sampler needs is not installed, or not in this machine.
        """
        self._refuse_options_of_others()
        rows = {} if self.batch_rows is None else {"batch_rows": self.batch_rows}
        dtype = TORCH_NAMES[self.dtype]
        match self.sampler:
            case SamplerName.MTP:
                from mtp_code.samplers.ours import OurSampler

                trained = load_once(Path(self.model), self.device, self.dtype)
                return OurSampler(trained, self.batch_rows or 32)
            case SamplerName.TRANSFORMERS:
                from mtp_code.samplers.hf import TransformersSampler

                return TransformersSampler(
                    self.model, self.revision, dtype, device=self.device, **rows
                )
            case SamplerName.VLLM:
                from mtp_code.samplers.vllm import VllmSampler

                return VllmSampler(self.model, self.revision, dtype, self.heads, **rows)
            case SamplerName.OPENAI:
                from mtp_code.samplers.endpoint import EndpointSampler, Limits

                limits = Limits(self.max_concurrent, self.requests_per_minute)
                return EndpointSampler(self.model, self.endpoint, self.api_key_env, limits)

    def _refuse_options_of_others(self) -> None:
        from_hub = self.sampler in (SamplerName.TRANSFORMERS, SamplerName.VLLM)
        is_openai = self.sampler is SamplerName.OPENAI
        given = {
            "--revision": self.revision is not None and not from_hub,
            "--device": self.device != "auto"
            and self.sampler in (SamplerName.VLLM, SamplerName.OPENAI),
            "--dtype": self.dtype != "auto" and is_openai,
            "--heads": self.heads is not None and self.sampler is not SamplerName.VLLM,
            "--batch-rows": self.batch_rows is not None and is_openai,
            "--requests-per-minute": self.requests_per_minute is not None and not is_openai,
        }
        for option, is_out_of_place in given.items():
            if is_out_of_place:
                raise mtp_code.errors.InputError(
                    f"{option}: means nothing to --sampler {self.sampler}; leave it out"
                )


def default_folder(sampler: SamplerName, model: str) -> Path:
    """Where a model's benchmarks go, a folder each."""
    if sampler is SamplerName.MTP:
        return figures_folder(Path(model)) / "eval"
    return _folder_named(sampler, model) / "eval"


def figures_folder(model: Path) -> Path:
    """Where figures of a model that our engine runs go: into its run; a model of others is left
    as it is."""
    from mtp_code.run_folder import RUN_FILE

    is_foreign = model.is_dir() and not (model / RUN_FILE).exists()
    return _folder_named(SamplerName.MTP, model.resolve().name) if is_foreign else model


def _folder_named(sampler: SamplerName, model: str) -> Path:
    name = re.sub(r"[^\w.]+", "-", model).strip("-.")
    return Path("runs") / f"{sampler}-{name}"


@cache
def load_once(folder: Path, device: DeviceName, dtype: DtypeName) -> "TrainedModel":
    """A model, read once however many stages of a command use it."""
    from mtp_code.decoding.prepare import load_for_decoding

    return load_for_decoding(folder, device, dtype)


def described(sampler: "Sampler") -> dict[str, Any]:
    """What a score says about who answered."""
    return {"sampler": sampler.name, **sampler.model}


def talked_to(benchmark: "Benchmark", sampler: "Sampler") -> "tuple[Benchmark, Chat | None]":
    """The benchmark as the model can be asked, and how the model is talked to where it can be.

    Without a chat template, a chat's message is put plainly; where nobody may begin an answer, the
    whole reply is taken: other formats, which go by their own names.
    """
    from evals.prompts import CHAT, CHAT_PLAIN, CHAT_REPLY, with_format

    if benchmark.prompt_format == CHAT.name:
        if sampler.chat is None:
            warn(f"the model has no chat template; the prompt format is {CHAT_PLAIN.name} instead")
            benchmark = with_format(benchmark, CHAT_PLAIN.name, benchmark.post_processing)
        elif not sampler.begins_answers:
            warn(
                "an endpoint lets nobody begin an answer; the prompt format is "
                f"{CHAT_REPLY.name} instead"
            )
            benchmark = with_format(benchmark, CHAT_REPLY.name)
    return benchmark, sampler.chat
