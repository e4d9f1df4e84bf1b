"""An engine of vLLM in a process of its own: questions by stdin, answers by stdout, as JSON.

Each prompt has a seed of its own, its number.
"""

import json
import os
import sys
from typing import Any

from torch import Tensor


def main() -> None:
    asked = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)  # vLLM writes to stdout
    answered = serve(**asked)
    with os.fdopen(out, "w") as file:
        json.dump(answered, file)


def serve(
    main: str,
    speculative_config: dict[str, Any] | None,
    prompts: list[list[int]],
    max_tokens: int,
    max_num_seqs: int,
    temperature: float,
    expands_well: bool,
) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    if expands_well:
        expand_well()
    llm = LLM(
        model=main,
        dtype="float32",
        max_num_seqs=max_num_seqs,
        seed=0,
        disable_log_stats=False,
        speculative_config=speculative_config,
        enforce_eager=True,
    )
    settings = [
        SamplingParams(temperature=temperature, max_tokens=max_tokens, ignore_eos=True, seed=number)
        for number in range(len(prompts))
    ]
    asked: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(asked, settings, use_tqdm=False)
    metrics: dict[str, Any] = {
        metric.name.removeprefix("vllm:spec_decode_num_"): getattr(
            metric, "values", getattr(metric, "value", None)
        )
        for metric in llm.get_metrics()
        if metric.name.startswith("vllm:spec_decode_num_")
    }
    return {"tokens": [list(each.outputs[0].token_ids) for each in outputs], "metrics": metrics}


def expand_well() -> None:
    """Gives drafted positions the settings of their requests, as vLLM means to.

    On a CPU vLLM 0.32.0 writes temperature, top-p and top-k of drafted positions into a copy that
    it drops, and goes on with whatever was in memory.
    """
    from vllm.utils import cpu_triton_utils

    def expand(
        output: Tensor,
        input_val: Tensor,
        cu_num_tokens: Tensor,
        replace_from: int,
        replace_to: int,
        MAX_NUM_TOKENS: int | None = None,
    ) -> None:
        counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
        settings = input_val.masked_fill(input_val == replace_from, replace_to)
        output.copy_(settings.repeat_interleave(counts))

    cpu_triton_utils._expand_kernel_impl = expand


if __name__ == "__main__":
    main()
