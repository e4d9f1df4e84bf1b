"""An engine of vLLM in a process of its own: questions by stdin, answers by stdout, as JSON.

Each prompt has a seed of its own, its number.
"""

import json
import os
import sys
from typing import Any


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
) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

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


if __name__ == "__main__":
    main()
