"""Import by a name on the hub, which is a folder here: what is asked of it, and what is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file

from mtp_code.errors import InteropError, TokenizerError
from mtp_code.interop.export import export
from mtp_code.interop.hub import check_name
from mtp_code.interop.hugging_face import import_model
from mtp_code.run_folder import load_run, read_run
from mtp_code.tokenizer import BytesTokenizer
from tests.mtp_code.interop.runs import write_run
from tests.mtp_code.interop.test_hugging_face import edit, write_foreign

COMMITS = {None: "a" * 40, "v1": "b" * 40}


class Hub:
    """Repositories below a folder, downloaded as `snapshot_download` does."""

    def __init__(self, folder: Path) -> None:
        self.repositories = folder / "repositories"
        self.cache = folder / "cache"
        self.asked: list[tuple[str, str | None]] = []
        self.downloaded: list[str] = []
        self.error: Exception | None = None

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        self.asked.append((repo_id, revision))
        if self.error is not None:
            raise self.error
        commit = revision if revision in COMMITS.values() else COMMITS[revision]
        repository, snapshot = self.repositories / repo_id, self.cache / str(commit)
        snapshot.mkdir(parents=True, exist_ok=True)
        names = [str(path.relative_to(repository)) for path in repository.rglob("*.*")]
        for name in sorted(filter_repo_objects(names, allow_patterns=allow_patterns)):
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            if not (snapshot / name).exists():
                shutil.copy(repository / name, snapshot / name)
                self.downloaded.append(name)
        return str(snapshot)

    def add(self, name: str) -> Path:
        """A small model of transformers as OWNER/MODEL."""
        folder = self.repositories / name
        write_foreign(folder, "Llama 2")
        return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return hub


def weights_in(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".safetensors", ".bin", ".pth"))]


def refused(hub: Hub, source: str, match: str, **options: object) -> None:
    """In one line, without any weights, and nothing is written."""
    with pytest.raises((InteropError, TokenizerError), match=match) as caught:
        import_model(source, Path("run"), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert weights_in(hub.downloaded) == []
    assert not Path("run").exists()


def test_a_model_is_imported_with_the_weights_that_are_read_and_no_others(hub):
    folder = hub.add("owner/model")
    weights = folder / "model.safetensors"
    for name in (
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "onnx/model.safetensors",
        "original/consolidated.pth",
        "pytorch_model.bin",
        "training_args.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(weights, folder / name)
    (folder / "modeling_evil.py").touch()
    import_model("owner/model", Path("run"), allow_pickle=True)
    assert weights_in(hub.downloaded) == ["model.safetensors"]
    assert "modeling_evil.py" not in hub.downloaded
    import_model(str(folder), Path("same"))
    ours, same = (load_run(Path(name)).model.state_dict() for name in ("run", "same"))
    assert all(torch.equal(ours[name], same[name]) for name in same)


def test_the_record_keeps_name_and_commit(hub):
    hub.add("owner/model")
    import_model("owner/model", Path("run"))
    record = read_run(Path("run"))
    assert record["name"] == "model"
    assert record["imported"]["from"] == "owner/model"
    assert record["imported"]["commit"] == COMMITS[None]
    import_model(str(hub.repositories / "owner/model"), Path("other"))
    assert "commit" not in read_run(Path("other"))["imported"]


def test_a_revision_is_asked_for_and_all_is_of_its_commit(hub):
    """A branch that moves between two downloads would mix two models."""
    hub.add("owner/model")
    import_model("owner/model", Path("run"), revision="v1")
    assert hub.asked == [("owner/model", "v1"), ("owner/model", COMMITS["v1"])]
    assert read_run(Path("run"))["imported"]["commit"] == COMMITS["v1"]


def test_a_folder_here_has_no_revision(hub):
    hub.add("owner/model")
    refused(hub, "repositories/owner/model", "has no --revision", revision="v1")
    assert hub.asked == []


def test_all_shards_come(hub):
    folder = hub.add("owner/model")
    whole = load_file(folder / "model.safetensors")
    huggingface_hub.save_torch_state_dict(
        whole, folder, max_shard_size=40_000, metadata={"format": "pt"}
    )
    (folder / "model.safetensors").unlink(missing_ok=True)
    import_model("owner/model", Path("run"))
    assert len(weights_in(hub.downloaded)) > 2


def test_an_export_brings_its_heads(hub):
    model = write_run(Path("ours"), BytesTokenizer())
    export(Path("ours"), hub.repositories / "owner/model")
    import_model("owner/model", Path("run"))
    assert weights_in(hub.downloaded) == ["heads/model.safetensors", "main/model.safetensors"]
    found = load_run(Path("run")).model
    assert found.num_mtp_heads == model.num_mtp_heads == 4
    for name, parameter in model.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter)


def test_pickles_come_only_if_allowed_and_only_where_there_is_nothing_else(hub):
    folder = hub.add("owner/model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    shutil.copy(folder / "pytorch_model.bin", folder / "training_args.bin")
    refused(hub, "owner/model", r"owner/model: has no safetensors; .*--allow-pickle")
    import_model("owner/model", Path("run"), allow_pickle=True)
    assert weights_in(hub.downloaded) == ["pytorch_model.bin"]


def test_what_is_not_supported_costs_no_weights(hub):
    edit(hub.add("owner/model") / "config.json", architectures=["MambaForCausalLM"])
    refused(hub, "owner/model", "MambaForCausalLM is not supported")
    (hub.repositories / "owner/model/config.json").unlink()
    shutil.rmtree(hub.cache)
    refused(hub, "owner/model", "owner/model: has no config.json")


@pytest.fixture
def published(hub) -> Path:
    """Two of the published checkpoints as they lie on the hub, of weights that nobody reads."""
    root = hub.repositories / "owner/mtp"
    for name in ("7B_200B_1", "7B_1T_4"):
        (root / name).mkdir(parents=True)
        (root / name / "consolidated.pth").touch()
        (root / name / "params.json").write_text(json.dumps({"dim": 8}))
    (root / "tokenizer.model").touch()
    (root / "README.md").touch()
    return root


def test_of_several_checkpoints_one_is_taken_and_the_tokenizer_of_all(hub, published):
    with pytest.raises(InteropError, match=r"consolidated.pth: cannot be read"):
        import_model("owner/mtp/7B_1T_4", Path("run"), allow_pickle=True)
    assert sorted(hub.downloaded) == [
        "7B_1T_4/consolidated.pth", "7B_1T_4/params.json", "tokenizer.model"
    ]  # fmt: skip


def test_a_repository_of_several_lists_them_and_brings_none(hub, published):
    refused(
        hub,
        "owner/mtp",
        "^owner/mtp: no model itself, .*: 7B_1T_4, 7B_200B_1; give one, such as owner/mtp/7B_1T_4$",
        allow_pickle=True,
    )


def test_a_published_checkpoint_wants_pickles(hub, published):
    refused(hub, "owner/mtp/7B_1T_4", "owner/mtp/7B_1T_4: has no safetensors; .*--allow-pickle")


def test_a_folder_that_the_repository_has_not_is_named(hub, published):
    refused(hub, "owner/mtp/7B_2T_4", "owner/mtp is on the hub, and has no model in 7B_2T_4")


def from_the_hub(kind: type[errors.HfHubHTTPError]) -> Exception:
    response: Any = SimpleNamespace(headers={}, request=None)
    return kind("401 Client Error.\n\nUnauthorized", response=response)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: from_the_hub(errors.GatedRepoError), "access has to be asked for.*hf auth login"),
        (lambda: from_the_hub(errors.RepositoryNotFoundError), "no such model there, or a private"),
        (lambda: from_the_hub(errors.RevisionNotFoundError), "it has no revision v1"),
        (lambda: from_the_hub(errors.HfHubHTTPError), "401 Client Error.$"),
        (lambda: errors.LocalEntryNotFoundError("Got: ConnectError\nAn error"), "ConnectError$"),
        (lambda: errors.HTTPError("too slow"), "too slow"),
        (lambda: OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(hub, make: Callable[[], Exception], match):
    hub.error = make()
    refused(hub, "owner/model", f"^owner/model: not here, .*from the hub: .*{match}", revision="v1")


@pytest.mark.parametrize(
    "source", ["model", "/owner/model", "../owner/model", "owner/..", "a//b", "a/b/c/d/e"]
)
def test_what_is_no_name_is_not_asked_for(hub, source):
    refused(hub, source, "no such folder, and no name on the hub")
    assert hub.asked == []


def test_a_path_of_runs_or_of_a_folder_here_is_the_hubs_only_by_a_revision(
    hub, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    for source in ("runs/tiny", "owner/model"):
        refused(hub, source, f"^{source}: no such folder; .* by a --revision, such as main$")
        assert hub.asked == []
        check_name(source, "main")
    check_name("another/model", None)


def test_names_that_the_hub_would_refuse_are_refused(tmp_path):
    with pytest.raises(InteropError, match=r"own--er/model: not here, .*from the hub: "):
        import_model("own--er/model", tmp_path / "run")
