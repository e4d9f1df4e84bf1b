"""Strict typed configuration, read from TOML with one `base` and `--set section.key=value`."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mtp_code.errors import RecipeError, did_you_mean


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


StrictT = TypeVar("StrictT", bound=Strict)


def validate(kind: type[StrictT], values: Mapping[str, Any], where: str) -> StrictT:
    """The values as `kind`; `where` opens the one-line message when they do not fit."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(kind, error.errors()[0])}") from None


def read_with_base(path: Path, find: Callable[[str], Path] = Path) -> dict[str, Any]:
    """The file's values over those of the file that its `base` names.

    Args:
        find: says where a `base` is that is not beside the file.

    Raises:
        RecipeError: a file is missing or no TOML, or the bases form a circle.
    """
    seen: list[Path] = []
    layers: list[dict[str, Any]] = []
    next_path: Path | None = path
    while next_path is not None:
        if next_path.resolve() in seen:
            raise RecipeError(f"{path}: base leads back to {next_path}; break the circle")
        seen.append(next_path.resolve())
        values = _read_toml(next_path)
        base = values.pop("base", None)
        layers.append(values)
        if base is None:
            break
        if not isinstance(base, str):
            raise RecipeError(f'{next_path}: base: {base!r} is no file name; write base = "…"')
        beside = next_path.parent / base
        next_path = beside if beside.exists() else find(base)
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = merge(merged, layer)
    return merged


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables as one; where both have a value that is no table, `over` wins."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def parse_override(override: str) -> dict[str, Any]:
    """`"optim.lr=1e-3"` as `{"optim": {"lr": 0.001}}`."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise RecipeError(f"--set {override}: not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None


def _explain(kind: type[BaseModel], error: ErrorDetails) -> str:
    location = error["loc"]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{did_you_mean(str(location[-1]), _section(kind, location[:-1]))}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not location:
        return message
    given = error["input"]
    shown = f" (given {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{key}: {message}{shown}"


def _section(kind: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    """The field names known in the table at a location.

    A location also holds list positions, dictionary keys and, for a union told apart by a tag,
    the tag.
    """
    tables = [kind]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [table.model_fields[part] for table in tables if part in table.model_fields]
        if fields:
            tables = [model for field in fields for model in _models_in(field.annotation)]
        else:
            tables = [table for table in tables if part in _tags(table)] or tables
    return {name for table in tables for name in table.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tags(table: type[BaseModel]) -> set[str]:
    return {
        value
        for field in table.model_fields.values()
        if get_origin(field.annotation) is Literal
        for value in get_args(field.annotation)
    }
