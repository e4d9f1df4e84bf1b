"""The model card: what the model is, how to load it, and what was measured of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtp_code.model.config import ModelConfig


@dataclass(frozen=True)
class Measured:
    """One figure of the run, ready to print.

    Attributes:
        what: such as a benchmark's name.
        value: with its unit and interval.
        basis: what it was counted on.
        sha256: the checksum of the weights that it was measured with, if that was recorded.
    """

    what: str
    value: str
    basis: str
    sha256: str | None = None


def model_card(
    record: Mapping[str, Any],
    config: ModelConfig,
    checkpoint: str,
    sha256: str,
    architecture: str,
    measured: Sequence[Measured],
) -> str:
    """Markdown with the hub's front matter."""
    return "\n".join(_lines(record, config, checkpoint, sha256, architecture, measured)) + "\n"


def _lines(
    record: Mapping[str, Any],
    config: ModelConfig,
    checkpoint: str,
    sha256: str,
    architecture: str,
    measured: Sequence[Measured],
) -> Iterator[str]:
    name, num_later = record["name"], config.num_mtp_heads - 1
    yield from ("---", "library_name: vllm", "pipeline_tag: text-generation", "tags:")
    yield from (f"- {tag}" for tag in ("multi-token-prediction", "speculative-decoding", "code"))
    yield from ("---", "", f"# {name}: MTP heads of offsets 2 to {config.num_mtp_heads}", "")
    yield (
        f"`main/` is the model itself, an ordinary `{architecture}` that transformers and vLLM "
        f"load as it is. `heads/` holds {num_later} more transformer layers that read the state "
        "entering its last layer, each predicting one token further ahead (Gloeckle et al. 2024, "
        "arXiv 2404.19737): a draft for self-speculative decoding, whose output is that of "
        "`main/` alone."
    )
    yield from ("", "## Use", "", "```python", "from transformers import AutoModelForCausalLM", "")
    yield from ('model = AutoModelForCausalLM.from_pretrained("main")', "```", "")
    yield from ("With mtp-code installed, whose plugin vLLM finds by itself:", "", "```console")
    draft = {
        "method": "eagle3",
        "model": "heads",
        "num_speculative_tokens": num_later,
        "enforce_eager": True,
    }
    yield f"$ vllm serve main --speculative-config '{json.dumps(draft)}'"
    yield from ("```", "", "## Model", "", "| | |", "|---|---|")
    yield f"| parameters, all heads | {record['model']['num_parameters']:,} |"
    yield f"| layers | {config.num_trunk_layers} in the trunk, {config.num_mtp_heads} heads |"
    yield f"| width, vocabulary, context | {config.width}, {config.vocab_size}, {config.context} |"
    yield f"| checkpoint | {checkpoint} of run {name}, sha256 {sha256[:16]} |"
    yield f"| code | mtp-code at commit {record.get('commit') or 'unknown'} |"
    yield from ("", "## Measured", "")
    if not measured:
        yield "Nothing yet: the run folder held no scores when it was exported."
        return
    yield from ("| what | figure | on |", "|---|---|---|")
    for one in measured:
        other = "" if one.sha256 in (None, sha256) else " (of another checkpoint of the run)"
        yield f"| {one.what}{other} | {one.value} | {one.basis} |"
