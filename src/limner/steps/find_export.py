"""Find an exported model: a folder, or a version in the model registry, which is fetched once."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from limner.errors import LimnerError, suggest
from limner.exported import CONFIG, WEIGHTS, open_config
from limner.lineage import file_sha256
from limner.ports import ModelRegistry, ModelVersion
from limner.steps.output import replaced

REGISTERED = "models:/"
ADDRESS = re.compile(r"models:/+(?!\.+[@/])([^/@:]+)(?:@([^/@]+)|/(\d+))")
SHA256 = re.compile("[0-9a-f]{64}")
EXPORTS = Path("exports")
"""Where `limner export` puts them, and where a mistyped one is looked for."""


def find_export(model: str, *, registry: ModelRegistry | Callable[[], ModelRegistry], cache: Path) -> Path:
    """The folder of an exported model: of that path, or models:/NAME@ALIAS, or models:/NAME/VERSION.

    A version is fetched below `cache`, and from then on taken from there, by its weights: an alias may be another
    version tomorrow. The registry is asked only for models:/ addresses. Raises LimnerError where there is no such
    model, and where its files are not those that were registered.
    """
    if not model.startswith(REGISTERED):
        return _folder(model)
    address = ADDRESS.fullmatch(model)
    if address is None:
        raise LimnerError(
            f"{model!r} is no address in the model registry.", fix="Write models:/NAME@ALIAS or models:/NAME/VERSION."
        )
    name, alias, number = address.groups()
    opened = registry() if callable(registry) else registry
    version = _version(opened, name, alias=alias, number=number)
    if not SHA256.fullmatch(version.export_digest):  # it becomes part of a path
        raise LimnerError(
            f"{model} is no model that Limner has exported.",
            why=f"The registry says {version.export_digest[:80]!r} of its weights, which is no SHA-256.",
            fix="Name another version.",
        )
    place = cache / "exports" / name / f"{version.number}-{version.export_digest[:16]}"
    if not (place / CONFIG).is_file():
        _fetch(opened, version, place)
    open_config(place)
    if file_sha256(place / WEIGHTS) != version.export_digest:
        raise LimnerError(
            f"{model} does not have the weights that were registered.",
            why=f"The registry says {version.export_digest} of version {version.number}.",
            fix=f"Delete {place} to fetch it once more; if that does not help, promote the model again.",
        )
    return place


def _folder(model: str) -> Path:
    folder = Path(model)
    if (folder / CONFIG).is_file():
        return folder
    exports = sorted(path.parent.as_posix() for path in EXPORTS.glob(f"*/{CONFIG}"))
    namesake = (EXPORTS / folder.name).as_posix()
    known = f"Did you mean {namesake!r}?" if namesake in exports else suggest(model, exports) if exports else ""
    raise LimnerError(
        f"There is no exported model at {model}.",
        why="" if not folder.exists() else f"It has no {CONFIG}.",
        fix=f"{known} Export one: limner export MODEL. Or name a registered one: models:/NAME@champion".lstrip(),
    )


def _version(registry: ModelRegistry, name: str, *, alias: str | None, number: str | None) -> ModelVersion:
    versions = registry.versions(name)
    if not versions:
        raise LimnerError(
            f"The model registry has no model {name!r}.",
            fix="Promote one first: limner promote MODEL. Is MLFLOW_TRACKING_URI the server that you mean?",
        )
    for version in versions:
        if alias in version.aliases if alias else version.number == number:
            return version
    wanted = f"alias {alias!r}" if alias else f"version {number}"
    has = [each for version in versions for each in (version.aliases if alias else (version.number,))]
    raise LimnerError(f"The model {name!r} has no {wanted} in the registry.", fix=suggest(alias or str(number), has))


def _fetch(registry: ModelRegistry, version: ModelVersion, place: Path) -> None:
    with replaced(place) as folder, tempfile.TemporaryDirectory(prefix=".fetched-", dir=folder.parent) as fetched:
        # By its number: the alias may have moved since it was looked up.
        found = registry.fetch(f"{REGISTERED}{version.name}/{version.number}", Path(fetched))
        for path in found.iterdir():
            path.rename(folder / path.name)
