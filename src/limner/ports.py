"""What a step asks of the outside world. Protocols only: the adapters implement them, the steps never see which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError


class Run(Protocol):
    """One tracked training run, open for writing. No method ever raises because the tracking server is unwell."""

    id: str
    """Names the run for ever; empty where nothing is tracked."""

    def params(self, values: Mapping[str, str]) -> None:
        """Record settings by dotted name. Values already recorded stay; a changed one becomes a tag."""

    def metrics(self, values: Mapping[str, float], *, images_seen: int) -> None:
        """Record metric values at a point of training. A value at or before that metric's last point is skipped."""

    def picture(self, name: str, pixels_HWC: NDArray[np.uint8], *, images_seen: int) -> None:  # noqa: N803
        """Record a picture, uint8 [H, W, C] with C of 1, 3 or 4."""

    def file(self, path: Path, folder: str = "") -> None:
        """Attach a file, or a folder with all it holds."""

    def dataset(self, name: str, *, digest: str, source: str) -> None:
        """Record which data the run used."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""


class Tracker(Protocol):
    """Where runs are recorded."""

    def run(self, name: str, *, run_id: str = "") -> AbstractContextManager[Run]:
        """Open the run `run_id`, or a new one. On leaving: FINISHED, FAILED on an error, KILLED on a signal."""


@dataclass(frozen=True)
class ModelVersion:
    """A version in the model registry, with the figures it was judged by."""

    name: str
    number: str
    aliases: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, str] = field(default_factory=dict)
    export_digest: str = ""
    dataset_md5: str = ""
    """DVC's name of the data it was trained on; empty where nothing says."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What its export costs: `latency_ms` a picture, `size_mib` of all files, `parity` (the worst of its formats)."""


@dataclass(frozen=True)
class Movement:
    """An entry in the history of a model: its champion changed."""

    kind: Literal["promotion", "rollback"]
    version: str
    """The champion since; empty where there has been none since."""
    before: str
    """The champion until then; empty where there was none."""
    who: str
    when: str
    """ISO 8601, UTC, to the second."""
    why: str


class ModelRegistry(Protocol):
    """Where versions of a model live, and which of them is in use.

    Its methods raise LimnerError where the registry cannot be used, or does not let us; then nothing has moved.
    """

    def names(self) -> tuple[str, ...]:
        """The models that it has, by name, in the order of the alphabet."""

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions of a model, the newest first. Raises LimnerError where there is no such model."""

    def history(self, name: str) -> tuple[Movement, ...]:
        """How its champion changed, the oldest first, up to the present one; empty where it never had any."""

    def champion(self, name: str) -> ModelVersion | None:
        """The version that carries the alias `champion`, or None where there is none yet."""

    def trained_on(self, name: str, dataset_md5: str) -> ModelVersion | None:
        """A version that has learnt from these data, or None where there is none."""

    def register(self, candidate: ModelVersion, export: Path, *, run_id: str) -> ModelVersion:
        """Store the exported model as a new version; the same export again returns the version it already is.

        What it returns has the costs of the export that is stored.
        """

    def challenge(self, version: ModelVersion) -> None:
        """Give it the alias `challenger`, unless the challenger or the champion is newer."""

    def dismiss(self, version: ModelVersion) -> None:
        """Take the alias `challenger` from it, where it has it."""

    def promote(
        self,
        version: ModelVersion,
        *,
        instead_of: ModelVersion | None,
        reason: str,
        seen: Sequence[Movement] | None = None,
    ) -> Movement | None:
        """Move the alias `champion`, and write it down; None where this version is the champion already.

        Raises LimnerError where the champion is no longer `instead_of`, and where there are later movements than those
        that were `seen` when it was decided.
        """

    def roll_back(self, name: str, *, expected: str, reason: str) -> Movement:
        """Undo the last promotion that is not undone yet: the champion before is the champion again.

        `expected` is the number of the champion that one saw. Raises LimnerError where it is another one by now, where
        nothing is left to be undone, and where the version before is no more.
        """

    def fetch(self, address: str, folder: Path) -> Path:
        """The exported model that models:/NAME@ALIAS or models:/NAME/VERSION names, below `folder`.

        Raises LimnerError where there is none, and where its files are not those that were registered.
        """


class ObjectStore(Protocol):
    """A place for files by key, such as a bucket with a prefix. Its methods raise LimnerError where it fails."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of each key that begins with `prefix`."""

    def put(self, key: str, path: Path) -> None:
        """Store a file's bytes; a key has the old ones until all new ones are there."""

    def get(self, key: str, path: Path) -> None:
        """Fetch a key's bytes into a file, which is there as a whole or not at all."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys, batch by batch in their order; one that does not exist is no error."""


class Fetch(Protocol):
    """Brings weights of feature extractors to this machine."""

    def __call__(self, address: str, *, sha256: str) -> Path:
        """The local file of a path, or of an address such as https:// or s3://.

        Its SHA-256 begins with `sha256`, which only a path can do without. Raises LimnerError where it cannot be had.
        """


Progress = Callable[[int, int, Mapping[str, float]], None]
"""Told how a training run goes: images seen, images in all, the latest losses by name."""

Notice = Callable[[str], None]
"""Told in a sentence what has happened that a person should know now."""


def nobody(sentence: str) -> None:
    """A `Notice` that nobody reads."""


def local_only(address: str, *, sha256: str) -> Path:
    """A `Fetch` that knows paths and nothing else."""
    if "://" in address:
        raise LimnerError(f"Nothing is fetched from an address here: {address!r}.", fix="Name the path of a file.")
    return Path(address)


@dataclass(frozen=True)
class Ports:
    """Everything outside that a step may use."""

    tracker: Tracker
    registry: ModelRegistry
    progress: Progress
    cache: Path = Path("runs/cache")
    """For what can be computed again: feature extractors, reference statistics."""
    extractor_weights: tuple[Path, ...] = ()
    """Where weights of feature extractors may lie that the settings do not name."""
    store: ObjectStore | None = None
    """Where a training's checkpoints survive its machine; None where they lie on this one only."""
    notice: Notice = nobody
    """Where the guard's doings are told."""
    fetch: Fetch = local_only
    """Where weights of feature extractors come from that the settings name."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What the lineage is to say of where this runs: the Kubeflow run, the image."""
