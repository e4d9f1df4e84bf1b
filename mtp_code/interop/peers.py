"""transformers' own decoding of a run's trunk and head 1, to measure ours against."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from mtp_code.decoding.requests import Completion, Request
from mtp_code.interop.configs import to_foreign
from mtp_code.interop.export import MAIN_DIR, export
from mtp_code.interop.names import main_layers, names_of_main, to_theirs
from mtp_code.model.mtp import MTPModel
from mtp_code.run_folder import RUN_FILE

_CPU: Final = torch.device("cpu")

LOOKED_UP_TOKENS = 3
"""Drafts of a round of prompt lookup: as many as four heads make."""

Decode = Callable[[Iterable[Request]], Iterator[Completion]]


def transformers_peers(
    folder: Path,
    answer_ends: Sequence[int],
    device: torch.device = _CPU,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Decode]:
    """Greedy `generate`, and the same with prompt lookup, by name.

    Args:
        device, dtype: where the weights are, and in which number format: ours, to be compared.
        folder: a run, whose trunk and head 1 are exported; or what else `load_model` takes.
        answer_ends: the tokenizer's.

    Raises:
        InteropError: no plain class of transformers computes what the run's model does.
    """
    with TemporaryDirectory() as exported, _without_progress_bars():
        if (folder / RUN_FILE).exists():
            export(folder, Path(exported) / "out", main_only=True)
            folder = Path(exported) / "out"
        path = folder / MAIN_DIR if (folder / MAIN_DIR).is_dir() else folder
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    model.to(device)
    return {
        "transformers generate": _Generate(model, answer_ends),
        "transformers prompt lookup": _Generate(
            model, answer_ends, prompt_lookup_num_tokens=LOOKED_UP_TOKENS
        ),
    }


def peer_of(model: MTPModel) -> dict[str, Decode]:
    """Greedy `generate` with a model's weights as they are in memory, which nothing ends early.

    On the model's device, in its number format.

    Raises:
        InteropError: no plain class of transformers computes what the model does.
    """
    config, weight = model.config, model.unembedding.weight
    foreign = to_foreign(config, len(main_layers(config)), weight.dtype)
    theirs = AutoConfig.for_model(**foreign, bos_token_id=None, eos_token_id=None)
    with torch.device(weight.device):
        other: Any = AutoModelForCausalLM.from_config(theirs, dtype=weight.dtype)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        own = to_theirs(config, dict(model.state_dict()), names_of_main(config))
        for name, parameter in other.named_parameters():
            parameter.copy_(own.pop(name))
    assert not own, f"no place for {sorted(own)}"
    return {"transformers generate": _Generate(other.eval(), ())}


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """The command line shows its own."""
    were_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if were_shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class _Generate:
    """A request at a time.

    The first forward reads the prompt and commits a token; ours reads the prompt but for its last
    token apart. So both take as many forwards for an answer.
    """

    def __init__(self, model: Any, answer_ends: Sequence[int], **options: Any) -> None:
        self._model, self._ends, self._options = model, list(answer_ends), options

    @torch.inference_mode()
    def __call__(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            prompt_1T = torch.tensor([list(request.prompt)], device=self._model.device)
            num_forwards = 0

            def count(*_: Any) -> None:
                nonlocal num_forwards
                num_forwards += 1

            hook = self._model.register_forward_pre_hook(count)
            context = self._model.config.max_position_embeddings
            try:
                found_1T = self._model.generate(
                    prompt_1T,
                    attention_mask=torch.ones_like(prompt_1T),
                    max_new_tokens=min(request.max_new_tokens, context - prompt_1T.shape[1]),
                    do_sample=False,
                    eos_token_id=self._ends or None,
                    pad_token_id=self._ends[0] if self._ends else 0,
                    **self._options,
                )
            finally:
                hook.remove()
            tokens = found_1T[0, prompt_1T.shape[1] :].tolist()
            has_ended = bool(tokens) and tokens[-1] in self._ends
            yield Completion(
                request,
                tokens[:-1] if has_ended else tokens,
                ended_by="end of text" if has_ended else "length",
                num_forwards=num_forwards,
            )
