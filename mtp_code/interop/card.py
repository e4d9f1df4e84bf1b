"""The model card: what the model is, how to load it, and what was measured of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtp_code.interop.vllm import draft_config
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
    name, num_later = record["name"], config.num_mtp_heads - 1
    figures = "\n".join(_rows(measured, sha256)) or (
        "Nothing yet: the run folder held no scores when it was exported."
    )
    return f"""\
---
library_name: vllm
pipeline_tag: text-generation
tags:
- multi-token-prediction
- speculative-decoding
- code
---

# {name}: MTP heads of offsets 2 to {config.num_mtp_heads}

`main/` is the model itself, an ordinary `{architecture}` that transformers and vLLM load as it \
is. `heads/` holds {num_later} more transformer layers that read the state entering its last \
layer, each predicting one token further ahead (Gloeckle et al. 2024, arXiv 2404.19737): a draft \
for self-speculative decoding, whose output is that of `main/` alone.

## Use

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("main")
```

With mtp-code installed, whose plugin vLLM finds by itself:

```console
$ vllm serve main --speculative-config '{json.dumps(draft_config("heads", num_later))}'
```

## Model

| | |
|---|---|
| parameters, all heads | {record["model"]["num_parameters"]:,} |
| layers | {config.num_trunk_layers} in the trunk, {config.num_mtp_heads} heads |
| width, vocabulary, context | {config.width}, {config.vocab_size}, {config.context} |
| checkpoint | {checkpoint} of run {name}, sha256 {sha256[:16]} |
| code | mtp-code at commit {record.get("commit") or "unknown"} |

## Measured

{figures}
"""


def _rows(measured: Sequence[Measured], sha256: str) -> Iterator[str]:
    if measured:
        yield "| what | figure | on |"
        yield "|---|---|---|"
    for one in measured:
        other = "" if one.sha256 in (None, sha256) else " (of another checkpoint of the run)"
        yield f"| {one.what}{other} | {one.value} | {one.basis} |"
