"""Strict typed configuration, read from TOML with one `base` and `--set section.key=value`."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mtp_code.errors import RecipeError, did_you_mean


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


StrictT = TypeVar("StrictT", bound=Strict)


@dataclass(frozen=True)
class Layer:
    """Values that lie over those of other layers, and where they were said."""

    where: str
    values: Mapping[str, Any]
    is_option: bool = False


def validate(
    kind: type[StrictT], values: Mapping[str, Any], where: str, layers: Iterable[Layer] = ()
) -> StrictT:
    """The values as `kind`.

    Where they do not fit, the one-line message opens with the layer that said the wrong value, or
    with `where` and the options that had a hand in it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        said = _said_in(list(layers), first["loc"], where)
        raise RecipeError(f"{said}: {_explain(kind, first, values)}") from None


def read_with_base(path: Path, find: Callable[[str], Path] = Path) -> list[Layer]:
    """The file's values, behind those of the file that its `base` names.

    Args:
        find: says where a `base` is that is not beside the file.

    Raises:
        RecipeError: a file is missing or no TOML, or the bases form a circle.
    """
    seen: list[Path] = []
    layers: list[Layer] = []
    next_path: Path | None = path
    while next_path is not None:
        if next_path.resolve() in seen:
            raise RecipeError(f"{path}: base leads back to {next_path}; break the circle")
        seen.append(next_path.resolve())
        values = _read_toml(next_path)
        base = values.pop("base", None)
        layers.append(Layer(str(next_path), values))
        if base is None:
            break
        if not isinstance(base, str):
            raise RecipeError(f'{next_path}: base: {base!r} is no file name; write base = "…"')
        beside = next_path.parent / base
        next_path = beside if beside.exists() else find(base)
    return layers[::-1]


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """All layers as one table; where several say a value, the last one counts."""
    return reduce(merge, (layer.values for layer in layers), {})


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables as one; where both have a value that is no table, `over` wins."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            both[key] = merge(below, value)
        else:
            both[key] = value
    return both


def parse_override(override: str) -> Layer:
    """`"optim.lr=1e-3"` as a layer of `{"optim": {"lr": 0.001}}`."""
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
    return Layer(f"--set {override}", value, is_option=True)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None


def _said_in(layers: Sequence[Layer], location: Sequence[str | int], otherwise: str) -> str:
    """Which layer said the value at a location; of a table, what is in it may come from many."""
    found = [(layer, _at(layer.values, location)) for layer in layers]
    holding = [(layer, value) for layer, value in found if value is not None]
    if not holding:
        return otherwise
    last, value = holding[-1]
    if not isinstance(value, Mapping):
        return last.where
    options = [layer.where for layer, _ in holding if layer.is_option]
    return " ".join([otherwise, *(["with", *options] if options else [])])


def _at(values: Any, location: Sequence[str | int]) -> Any:
    """What stands at a location, None if nothing does. Tags of unions are passed over."""
    for place, part in enumerate(location, start=1):
        if not isinstance(values, Mapping):
            return values  # a list's items are its own layer's
        if part in values:
            values = values[part]
        elif place == len(location):
            return None
    return values


def _explain(kind: type[BaseModel], error: ErrorDetails, values: Mapping[str, Any]) -> str:
    location = error["loc"]
    key = ".".join(_keys(values, location))
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


def _keys(values: Any, location: Sequence[str | int]) -> Iterator[str]:
    """A location as whoever wrote the values would say it: without the tags of unions."""
    for place, part in enumerate(location, start=1):
        if isinstance(values, Mapping):
            if part in values or place == len(location):
                yield str(part)
            values = values.get(part, values)
        elif isinstance(part, int):
            yield str(part)
            values = values[part] if part < len(values) else None


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
