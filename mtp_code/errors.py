"""What can be wrong with what a user handed over, or with the machine.

Each message is one line: where, what, what instead. The command line prints it without a
traceback and exits with status 2 (`InputError`) or 3 (`MachineError`).
"""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """A mistake in what the user handed over."""


class RecipeError(InputError):
    """A recipe that cannot be read or does not hold together."""


class CorpusError(InputError):
    """A corpus that is missing, empty or unreadable."""


class TokenizerError(InputError):
    """A tokenizer that is missing, or text or ids that it cannot take."""


class ShardError(InputError):
    """Token shards that are missing, incomplete, or changed since they were written."""


class TrainingError(InputError):
    """A run that cannot go on with its recipe."""


class AskedToEnd(Exception):  # noqa: N818 - no error
    """A run that was asked to end before its last step, and did; the message says where."""


class PeerError(Exception):
    """Another process of this run failed, and says why."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, or of another model."""


class PromptError(InputError):
    """A prompt that the model cannot take."""


class InteropError(InputError):
    """A model that cannot be taken from, or handed to, others as it is."""


class MachineError(Exception):
    """Something this machine lacks: the message names the remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean x?"` for the nearest known name, or the list of what is known."""
    candidates = sorted(known)
    nearest = difflib.get_close_matches(name, candidates, n=1)
    if nearest:
        return f"; did you mean {nearest[0]}?"
    return f"; known: {', '.join(candidates)}"


def first_line(error: BaseException) -> str:
    """Of what others' errors say, which may be pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
