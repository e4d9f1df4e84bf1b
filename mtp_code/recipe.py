"""Recipe: the root of the typed tree, from corpus to checkpoint."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import Field, NonNegativeInt, model_validator

from mtp_code.config import Strict, merged, parse_override, read_with_base, validate
from mtp_code.data.config import DataConfig
from mtp_code.errors import RecipeError, did_you_mean
from mtp_code.model.config import ModelConfig
from mtp_code.tokenizer import BpeConfig, BytesConfig, TokenizerConfig
from mtp_code.training.config import InitConfig, OptimConfig, TrainingConfig
from mtp_code.training.schedule import ScheduleConfig


class Recipe(Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    tokenizer: TokenizerConfig
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    init: InitConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _takes_vocabulary_from_tokenizer(cls, values: Any) -> Any:
        """Our own tokenizers know their vocabulary's size before they exist."""
        match values:
            case {"model": {"vocab_size": _}}:
                return values
            case {"model": {**model}, "tokenizer": {"kind": "bytes", **tokenizer}}:
                config = BytesConfig(kind="bytes", fim_tokens=tokenizer.get("fim_tokens") is True)
                return values | {"model": model | {"vocab_size": config.vocab_size}}
            case {"model": {**model}, "tokenizer": {"kind": "bpe", **tokenizer}}:
                size = tokenizer.get("vocab_size", BpeConfig.model_fields["vocab_size"].default)
                return values | {"model": model | {"vocab_size": size}}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.training.row_tokens > self.model.context:
            raise ValueError(
                f"training.row_tokens = {self.training.row_tokens} is longer than "
                f"model.context = {self.model.context}"
            )
        self.training.objective.check(self.model)
        if self.init is not None and self.init.train != "all":
            if self.model.heads != "parallel" or self.model.replicated_unembeddings:
                raise ValueError(
                    f"init.train = {self.init.train} is for parallel heads with one unembedding"
                )
            if self.init.num_heads_before >= self.model.num_mtp_heads:
                raise ValueError(
                    f"init.train = {self.init.train} trains heads that are new, but "
                    f"init.num_heads_before = {self.init.num_heads_before} and "
                    f"model.num_mtp_heads = {self.model.num_mtp_heads}; set more heads"
                )
        return self


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, or one of ours by name, under `section.key=value` overrides.

    Raises:
        RecipeError: no such recipe, or a key or value in it is wrong.
    """
    path = find_recipe(name_or_path)
    layers = [*read_with_base(path, find_recipe), *map(parse_override, overrides)]
    values = {"name": path.stem, **merged(layers)}
    return validate(Recipe, values, str(path), layers)


def find_recipe(name_or_path: str) -> Path:
    """A file as given, else the recipe of that name that comes with the package."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    ours = {
        Path(entry.name).stem: Path(str(entry))
        for entry in resources.files("mtp_code.recipes").iterdir()
        if entry.name.endswith(".toml")
    }
    name = name_or_path.removesuffix(".toml")
    if name not in ours:
        raise RecipeError(f"{name_or_path}: no such recipe{did_you_mean(name, ours)}")
    return ours[name]
