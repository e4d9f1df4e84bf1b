"""Models by their names on the hub: what of a repository is downloaded, and in which order.

What says of which kind a model is comes first, and is a few files; its weights come when it is one
that can be read. Of weights that a repository holds more than once (as safetensors and as pickles,
whole and in Mistral's `consolidated.safetensors`, in other folders for other programs) those come
that are read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtp_code.errors import InteropError
from mtp_code.interop.export import CONFIG_FILE, GENERATION_FILE, HEADS_DIR, MAIN_DIR
from mtp_code.interop.files import PICKLE, SAFETENSORS
from mtp_code.interop.published import PARAMS_FILE, TOKENIZER_FILE, WEIGHTS_FILE

SMALL_FILES: Final = (
    CONFIG_FILE,
    GENERATION_FILE,
    PARAMS_FILE,
    f"{SAFETENSORS}.index.json",
    f"{PICKLE}.index.json",
    TOKENIZER_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
WEIGHTS: Final = (SAFETENSORS, "model-*.safetensors")
_WITH_SUBFOLDER: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*(/\w[\w.-]*)?")
_OURS: Final = ("runs", "exported")
"""Where models are written to; nobody's names on the hub."""
PICKLED_WEIGHTS: Final = (PICKLE, "pytorch_model-*.bin", WEIGHTS_FILE)


@dataclass(frozen=True)
class HubCopy:
    """What is here of a model of the hub.

    Attributes:
        source: as it was asked for, OWNER/MODEL or OWNER/MODEL/SUBFOLDER.
        folder: of the model, in the hub's cache.
        commit: of the repository; whatever is downloaded later is of the same.
    """

    source: str
    folder: Path
    commit: str

    def fetch_weights(self, allow_pickle: bool) -> None:
        """Downloads the weights: safetensors, or else pickles.

        Raises:
            InteropError: they are not to be had, or are pickles and nobody allowed those.
        """
        repository, prefix = _split(self.source)
        is_export = not any((self.folder / name).exists() for name in (CONFIG_FILE, PARAMS_FILE))
        places = [f"{prefix}{part}/" for part in (MAIN_DIR, HEADS_DIR)] if is_export else [prefix]
        _download(repository, self.commit, [place + name for place in places for name in WEIGHTS])
        where = self.folder / MAIN_DIR if is_export else self.folder
        if any(found for name in WEIGHTS for found in where.glob(name)):
            return
        if not allow_pickle:
            raise InteropError(
                f"{self.source}: has no safetensors; pickles, which could run code, are read with "
                "weights_only=True by mtp-code import --allow-pickle"
            )
        _download(repository, self.commit, [prefix + name for name in PICKLED_WEIGHTS])


def check_name(
    source: str,
    revision: str | None,
    names: re.Pattern[str] = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?"),
    told: str = "OWNER/MODEL",
) -> None:
    """Refuses what can only be a folder that is not there: the hub would be asked again and again.

    Args:
        names: what models are called there.
        told: the same, for people.

    Raises:
        InteropError: it is no name, or a path of runs; or it has the name of a folder here for its
            owner and no revision, which folders do not have.
    """
    parent = Path(source).parent
    if Path(source).exists() or not names.fullmatch(source):
        raise InteropError(f"{source}: no such folder, and no name on the hub ({told})")
    if revision is None and parent != Path() and (parent.parts[0] in _OURS or parent.is_dir()):
        raise InteropError(
            f"{source}: no such folder; if it is the hub's model of that name, say so by a "
            "--revision, such as main"
        )


def copy_of(source: str, revision: str | None = None) -> HubCopy:
    """A model of the hub without its weights, as they are on a branch, at a tag or a commit.

    Of folders beside or below it, what says whether they hold models.

    Args:
        source: OWNER/MODEL, or OWNER/MODEL/SUBFOLDER where a repository holds several.

    Raises:
        InteropError: it is no such name, or not to be had.
    """
    check_name(source, revision, _WITH_SUBFOLDER, "OWNER/MODEL, or OWNER/MODEL/SUBFOLDER")
    repository, prefix = _split(source)
    wanted = [
        prefix + place + name
        for place in ("", f"{MAIN_DIR}/", f"{HEADS_DIR}/")
        for name in SMALL_FILES
    ]
    wanted += [f"{prefix}*/{name}" for name in (CONFIG_FILE, PARAMS_FILE)]
    if prefix:
        wanted.append(TOKENIZER_FILE)  # which the published checkpoints share
    root = _download(repository, revision, wanted)
    if not (root / prefix).is_dir():
        raise InteropError(f"{source}: {repository} is on the hub, and has no model in {prefix}")
    return HubCopy(source, root / prefix, root.name)


def _split(source: str) -> tuple[str, str]:
    """The repository, and what the names of the model's files begin with there."""
    owner, name, *below = source.split("/")
    return f"{owner}/{name}", "".join(f"{part}/" for part in below)


def _download(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of one commit, named after it, with whatever fits a pattern.

    Raises:
        InteropError: it is not to be had.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        # "*" goes over slashes, so that a pattern says where it begins.
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError:
        reason = "access has to be asked for on its page; then set HF_TOKEN, or hf auth login"
    except errors.RepositoryNotFoundError:
        reason = "no such model there, or a private one that wants HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = f"it has no revision {revision}"
    except (
        errors.HTTPError,  # type: ignore[attr-defined]  # of httpx, from whichever it is taken
        errors.HFValidationError,
        OSError,
    ) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
    raise InteropError(f"{repository}: not here, and not to be had from the hub: {reason}")
