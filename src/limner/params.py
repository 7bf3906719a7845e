"""params.yaml and overrides -> settings, with errors that say where the mistake is and what may stand there."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from limner.errors import LimnerError, suggest
from limner.settings import DatasetSettings, MethodSettings, ModelSettings

S = TypeVar("S", bound=BaseModel)
Json = Any  # whatever a YAML or JSON document can hold


class Catalog:
    """The two maps of params.yaml. An entry is validated when it is asked for, so that one mistake stops one model."""

    def __init__(self, raw: Json, *, origin: str, method_settings: Callable[[str], type[MethodSettings]]) -> None:
        """`origin` names the file in errors; `method_settings` finds the settings class of a training method."""
        self._raw = _mapping(raw, origin, "the whole file")
        self._origin = origin
        self._method_settings = method_settings
        for key in self._raw:
            if key not in ("datasets", "models"):
                raise LimnerError(
                    f"{origin}: there is no top-level key {key!r}.", fix=suggest(key, ("datasets", "models"))
                )

    @property
    def datasets(self) -> list[str]:
        """Names of the dataset entries."""
        return list(self._section("datasets"))

    @property
    def models(self) -> list[str]:
        """Names of the model entries."""
        return list(self._section("models"))

    def dataset(self, name: str) -> DatasetSettings:
        """The settings of one dataset. Raises LimnerError where the entry is missing or wrong."""
        return validate(DatasetSettings, self._entry("datasets", name), origin=self._origin, at=("datasets", name))

    def model(self, name: str) -> ModelSettings[MethodSettings]:
        """The settings of one model with its method's own. Raises LimnerError where the entry is missing or wrong."""
        entry = self._entry("models", name)
        method = _mapping(entry.get("method"), self._origin, f"models.{name}.method")
        if not isinstance(method.get("name"), str):
            raise LimnerError(
                f"{self._origin}: models.{name}.method has no name.", fix="Write the method's name, as in `name: gan`."
            )
        schema = cast(
            "type[ModelSettings[MethodSettings]]",
            ModelSettings.__class_getitem__(self._method_settings(method["name"])),
        )
        settings = validate(schema, entry, origin=self._origin, at=("models", name))
        if settings.dataset not in self.datasets:
            raise LimnerError(
                f"{self._origin}: models.{name}.dataset = {settings.dataset!r}, but no such dataset is described.",
                fix=suggest(settings.dataset, self.datasets),
            )
        return settings

    def to_json(self, model: str) -> str:
        """The entries that concern one model, fully resolved, as one string: what travels to a cluster."""
        settings = self.model(model)
        dataset = self.dataset(settings.dataset).model_dump(mode="json")
        document = {"datasets": {settings.dataset: dataset}, "models": {model: settings.model_dump(mode="json")}}
        return json.dumps(document, sort_keys=True, ensure_ascii=False)

    def _section(self, section: str) -> Mapping[str, Json]:
        return _mapping(self._raw.get(section, {}), self._origin, section)

    def _entry(self, section: str, name: str) -> Mapping[str, Json]:
        entries = self._section(section)
        if name not in entries:
            raise LimnerError(f"{self._origin}: {section} has no entry {name!r}.", fix=suggest(name, map(str, entries)))
        return _mapping(entries[name], self._origin, f"{section}.{name}")


def read_yaml(path: Path) -> Json:
    """A YAML 1.2 document as plain dicts and lists. Raises LimnerError where it is missing or not valid YAML."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LimnerError(
            f"There is no file {path}.", fix="Go to the project's folder, or name the file with --params FILE."
        ) from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise LimnerError(f"{path} cannot be read.", why=str(error)) from error


def apply_overrides(raw: Json, overrides: Iterable[str], *, origin: str) -> Json:
    """A copy of `raw` with `a.b.c=value` assignments made; a value is read as YAML, a missing key is created."""
    changed = copy.deepcopy(raw)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise LimnerError(
                f"--set {override!r} is not of the form a.b.c=value.",
                fix="For instance --set models.digits-gan.train.kimg=50",
            )
        node = _mapping(changed, origin, "the whole file")
        for depth, key in enumerate(keys[:-1], start=1):
            node = _mapping(node.setdefault(key, {}), origin, ".".join(keys[:depth]))
        try:
            node[keys[-1]] = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise LimnerError(f"--set {override!r}: the value is not valid YAML.", why=str(error)) from error
    return changed


def validate(schema: type[S], raw: Json, *, origin: str, at: tuple[str, ...]) -> S:
    """`raw` as settings of class `schema`. Raises LimnerError with file, key, value and what may stand there."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        # A union puts its tag into the location ("source", "mnist5k", "path"), a key that is not in the file.
        where = ".".join((*at, *_keys_in_file(raw, first["loc"], missing=first["type"] == "missing")))
        value = "" if isinstance(first["input"], Mapping) or first["type"] == "missing" else f" = {first['input']!r}"
        more = f" ({len(problems) - 1} more mistakes in this entry.)" if len(problems) > 1 else ""
        raise LimnerError(
            f"{origin}: {where}{value} is not right.", why=first["msg"] + more, fix=_allowed(schema, first["loc"])
        ) from error


def _keys_in_file(raw: Json, location: tuple[int | str, ...], *, missing: bool) -> list[str]:
    keys = []
    for position, key in enumerate(location):
        in_file = isinstance(key, int) or (
            isinstance(raw, Mapping) and (key in raw or (missing and position == len(location) - 1))
        )
        if not in_file:  # the tag of a union: "str", "list[str]", "mnist5k"
            continue
        keys.append(str(key))
        if isinstance(raw, Mapping):
            raw = raw.get(key)
        elif isinstance(raw, list) and isinstance(key, int) and key < len(raw):
            raw = raw[key]
    return keys


def _allowed(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What the schema says of the value at a location: its range or choices, and what it means."""
    document = schema.model_json_schema()
    node: Json = document
    for key in location:
        node = _resolve(document, node)
        if "oneOf" in node:
            node = node.get("discriminator", {}).get("mapping", {}).get(key, node)
            node = {"$ref": node} if isinstance(node, str) else node
        else:
            node = node.get("properties", {}).get(key, {})
    node = _resolve(document, node)
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    parts = [node["type"]] if isinstance(node.get("type"), str) and node["type"] != "object" else []
    parts += [f"{sign} {node[name]}" for name, sign in bounds.items() if name in node]
    if "enum" in node:
        parts.append("one of " + ", ".join(map(str, node["enum"])))
    text = f"Allowed: {', '.join(parts)}." if parts else ""
    return f"{text} It is: {node['description']}." if text and node.get("description") else text


def _resolve(document: Json, node: Json) -> Json:
    while "$ref" in node:
        node = document["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _mapping(value: Json, origin: str, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise LimnerError(f"{origin}: {where} has to be a map of keys and values, but it is {value!r}.")
    return value
