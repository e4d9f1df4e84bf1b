"""Any model that vLLM can load, in this process; our exported ones with their heads drafting."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mtp_code.errors import InputError, MachineError, first_line
from mtp_code.interop.vllm import require_vllm, speculative_config
from mtp_code.machine import describe_versions
from mtp_code.samplers.base import Asked, Drawing, cut_at_stops, has_room
from mtp_code.samplers.hub import HubTokenizer, describe

CHUNK = 1024
"""Questions handed over at once. vLLM answers them all before it returns, and what was answered is
kept then; at the end of a chunk its batch runs empty."""

log = logging.getLogger(__name__)


class VllmSampler:
    """vLLM's offline engine.

    Its random numbers are its own: the same seeds draw other samples than with our engine.

    Args:
        name_or_folder: of a model.
        dtype: "auto" is that of the weights, float32 too, of which vLLM's own "auto" makes
            bfloat16.
        heads: the folder `heads/` that was exported with `name_or_folder`: they draft.
        batch_rows: answers drawn side by side, at most.
        options: further arguments of `vllm.LLM`.

    Raises:
        InputError: there is no such model, or vLLM cannot serve it.
        MachineError: no vLLM is installed, or one that was not tested.
    """

    name = "vllm"
    begins_answers = True

    def __init__(
        self,
        name_or_folder: str,
        revision: str | None = None,
        dtype: str = "auto",
        heads: Path | None = None,
        batch_rows: int = 256,
        **options: Any,
    ) -> None:
        version = require_vllm()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        self._tokenizer = HubTokenizer(name_or_folder, revision)
        if heads is not None:
            options["speculative_config"] = speculative_config(heads)
        import vllm
        from vllm.platforms import current_platform

        try:
            self._llm = vllm.LLM(
                model=name_or_folder,
                revision=revision,
                dtype=_dtype_of(name_or_folder, revision) if dtype == "auto" else dtype,
                seed=0,
                max_num_seqs=batch_rows,
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{name_or_folder}: vLLM {version} cannot serve it: {first_line(error)}"
            ) from error
        config = self._llm.llm_engine.model_config
        commit = getattr(config.hf_config, "_commit_hash", None)
        self._context: int = config.max_model_len
        self.chat = self._tokenizer.chat
        self.model = {
            **describe(name_or_folder, revision, commit),
            "dtype": str(config.dtype).removeprefix("torch."),
        }
        # vLLM's issue 55005.
        self._loses_temperature = heads is not None and current_platform.is_cpu()
        if heads is not None:
            self.model["heads"] = describe(str(heads), None, None)["sha256"]
        self.versions = {**describe_versions(), "vllm": version}

    def draw(self, asked: Iterable[Asked], drawing: Drawing) -> Iterator[tuple[Asked, str]]:
        """Each question with its answer, `CHUNK` at a time.

        Raises:
            MachineError: samples would not be of the model's law.
        """
        if self._loses_temperature and drawing.temperature:
            raise MachineError(
                "vLLM on a CPU does not keep the temperature of tokens that were drafted: "
                "samples would be of another law; leave --heads out, or sample with --temperature 0"
            )
        waiting = []
        for question in asked:
            prompt = self._tokenizer.encode(question)
            if not has_room(question, len(prompt), self._context):
                yield question, ""
                continue
            waiting.append((question, prompt))
            if len(waiting) == CHUNK:
                yield from self._answer(waiting, drawing)
                waiting = []
        yield from self._answer(waiting, drawing)

    def _answer(
        self, waiting: Sequence[tuple[Asked, list[int]]], drawing: Drawing
    ) -> Iterator[tuple[Asked, str]]:
        from vllm import SamplingParams

        if not waiting:
            return
        settings = [
            SamplingParams(
                temperature=drawing.temperature,
                top_p=drawing.top_p if drawing.temperature else 1.0,
                max_tokens=drawing.max_new_tokens,
                seed=question.seed,
                stop=list(question.stops),
            )
            for question, _ in waiting
        ]
        prompts: Any = [{"prompt_token_ids": prompt} for _, prompt in waiting]
        outputs = self._llm.generate(prompts, settings, use_tqdm=False)
        for (question, prompt), output in zip(waiting, outputs, strict=True):
            text = self._tokenizer.decode_after(prompt, _without_end(output.outputs[0]))
            yield question, cut_at_stops(text, question.stops)


def _dtype_of(name_or_folder: str, revision: str | None) -> str:
    """What a model's configuration says of its weights; where it says nothing, vLLM may choose."""
    config = AutoConfig.from_pretrained(name_or_folder, revision=revision, trust_remote_code=False)
    told = getattr(config, "dtype", None)
    return "auto" if told is None else str(told).removeprefix("torch.")


def _without_end(answer: Any) -> list[int]:
    """An answer's tokens but for the one that ended it, which need be no special one."""
    tokens = list(answer.token_ids)
    is_ended_by_token = answer.finish_reason == "stop" and not isinstance(answer.stop_reason, str)
    return tokens[:-1] if is_ended_by_token else tokens
