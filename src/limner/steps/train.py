"""Train a model on a packed dataset."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limner import __version__, distributed
from limner.averaging import Average
from limner.checkpoint import Checkpoints, flat
from limner.data import Augmentation, open_batches, refuse_other_task, showcase_batch
from limner.errors import LimnerError
from limner.health import HealthCheck
from limner.journal import Journal, Line, describe_event, read_journal
from limner.lineage import code_name, directory_md5, read_lineage, write_lineage
from limner.methods import TrainingMethod, load_method
from limner.mirror import Mirror
from limner.optimise import compile_network
from limner.packing import PackedDataset
from limner.pixels import bands, encode_png, to_uint8
from limner.ports import Ports, Run
from limner.precision import autocast, choose_precision
from limner.quick_judging import QuickJudging, open_quick_judging
from limner.randomness import derive_seed, generator
from limner.settings import MethodSettings, ModelSettings
from limner.steps.initial_weights import start_from
from limner.steps.output import held, replaced
from limner.tasks import Pairs, PictureShape, UnpairedPictures
from limner.trained import draw, draw_batch, save_config, save_product, save_weights
from limner.training_loop import Best, TrainingRun
from limner.training_loop import train as run_loop

GRID_COLUMNS, GRID_PICTURES = 10, 80
FINISHED = ".finished"
"""Ends the name of a finished run's folder, which only waits to be deleted."""
NOT_PART_OF_THE_RUN = ("sample_kimg", "checkpoint_kimg", "checkpoint_minutes", "keep_checkpoints")
"""Settings that do not change the weights: changing them does not begin another run."""


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    output: Path
    run_id: str
    images_seen: int
    dataset_digest: str


def train(  # noqa: PLR0913 - it is where all of them meet
    settings: ModelSettings[MethodSettings],
    *,
    name: str,
    dataset: Path,
    output: Path,
    scratch: Path,
    ports: Ports,
    deliver: Callable[[Path], None] = lambda folder: None,
) -> Trained:
    """Train the model `name` on the packed dataset in `dataset`; put the last and the best product into `output`.

    Checkpoints and the journal lie in `scratch` while it runs. The same call after an interruption goes on from the
    newest checkpoint, in the same tracked run; other settings or other data begin a run of their own. `deliver` gets
    the output before the checkpoints go. Raises LimnerError where another process is at the same run.
    """
    packed = PackedDataset(dataset)
    device = distributed.local_device()
    refuse_other_task(packed, task=load_method(settings.method.name).task)
    with distributed.joined(device), determinism(settings.train.deterministic):
        if not distributed.is_first():
            return _assist(settings, packed, device=device, ports=ports, output=output)
        method = build(settings, training_shape(settings, packed), device)
        begun_from, settings = settings.train.init, start_from(settings, method, ports=ports)
        key = _key(settings, packed.digest)
        place = scratch / key
        _delete_finished(scratch, name=name, ports=ports)
        place.mkdir(parents=True, exist_ok=True)
        with held(place, name=name):
            mirror = Mirror(place, ports.store, prefix=f"{name}/{key}") if ports.store else None
            if mirror and mirror.pull():
                ports.notice("goes on from the object store's copy")
            with ports.tracker.run(name, run_id=_read_run_id(place)) as tracked:
                _write_run_id(place, tracked.id)
                if mirror:
                    # Whoever goes on from there goes on in the same tracked run, however early this one ends.
                    mirror.push()
                # Of a process that was killed before all had been sent.
                for line in read_journal(place / "journal.jsonl"):
                    tracked.metrics(line.get("metrics", {}), images_seen=line["images"])
                _describe(tracked, settings, packed, name=name)
                run = assemble(settings, method, packed, place=place, ports=ports, tracked=tracked, mirror=mirror)
                with run.checkpoints, run.journal:
                    state = run_loop(run)
                with replaced(output) as folder:
                    _collect(folder, settings, packed, run=run, place=place)
                    record = _record(settings, packed, name=name, dataset=dataset) | {"device": device.type}
                    record |= {"run_id": tracked.id, "images_seen": str(state.images), **ports.provenance}
                    if begun_from:
                        record |= {"init": begun_from, "init_digest": settings.train.init.removeprefix("sha256:")}
                    write_lineage(folder, record)
                tracked.file(output / "lineage.json")
                tracked.file(output / "journal.jsonl")
            deliver(output)
            # The output holds all that matters; the same call again is a new run. A kill from here on must not leave
            # what looks like an interrupted one.
            place.rename(place.with_suffix(FINISHED))
        _delete_finished(scratch, name=name, ports=ports)
    return Trained(output, tracked.id, state.images, packed.digest)


def _record(
    settings: ModelSettings[MethodSettings], packed: PackedDataset, *, name: str, dataset: Path
) -> dict[str, str]:
    """What the lineage is to say of the model and its data."""
    # What was fetched by a name keeps it, be it the name of the pictures that it was made of.
    md5 = read_lineage(dataset).get("dataset_md5") or directory_md5(dataset)
    learnt_by = settings.model_dump(mode="json", include={"dataset", "method", "train"})
    return {
        "step": "train",
        "model": name,
        "seed": str(settings.train.seed),
        "params_digest": hashlib.sha256(json.dumps(learnt_by, sort_keys=True).encode()).hexdigest(),
        "dataset": settings.dataset,
        "dataset_digest": packed.digest,
        "dataset_licence": packed.manifest.licence,
        "dataset_md5": md5,
    }


def _assist(
    settings: ModelSettings[MethodSettings], packed: PackedDataset, *, device: torch.device, ports: Ports, output: Path
) -> Trained:
    """Take a share of another process's run: compute, and write nothing that stays."""
    method = build(settings, training_shape(settings, packed), device)
    settings = start_from(settings, method, ports=ports)
    with tempfile.TemporaryDirectory(prefix="limner-") as place:
        run = assemble(settings, method, packed, place=Path(place), ports=ports, writes=False)
        with run.checkpoints, run.journal:
            state = run_loop(run)
    return Trained(output, "", state.images, packed.digest)


def build(settings: ModelSettings[MethodSettings], shape: PictureShape, device: torch.device) -> TrainingMethod:
    """The method with the weights that the run's seed gives it, on the device."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(settings.train.seed, "weights"))
        method = load_method(settings.method.name).build(settings.method, shape)
    method.networks.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method


def training_shape(settings: ModelSettings[MethodSettings], packed: PackedDataset) -> PictureShape:
    """What the networks see in training: whole pictures, or squares cut out of them."""
    shape, side = packed.shape(), settings.train.crop
    return replace(shape, height=side, width=side) if side else shape


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:  # noqa: FBT001 - it is the setting itself
    """Inside it PyTorch takes deterministic algorithms only, where that is wanted or was so before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def same_run(settings: ModelSettings[MethodSettings]) -> str:
    """Equal for settings that lead to the same training of the same data: what is changed besides is no other run."""
    return json.dumps(_identity(settings, ""), sort_keys=True)


def _identity(settings: ModelSettings[MethodSettings], dataset_digest: str) -> dict[str, Any]:
    document = settings.model_dump(mode="json")
    train_settings = {k: v for k, v in document["train"].items() if k not in NOT_PART_OF_THE_RUN}
    rows = flat({"method": document["method"], "train": train_settings})
    if settings.train.judge_kimg:  # only then does the evaluation have a say in what is kept as best
        rows |= flat({"evaluate": document["evaluate"]})
    return rows | {"dataset_digest": dataset_digest, "limner_version": code_name(__version__)}


def _key(settings: ModelSettings[MethodSettings], dataset_digest: str) -> str:
    """Names a run by all that decides its weights."""
    identity = json.dumps(_identity(settings, dataset_digest), sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _delete_finished(scratch: Path, *, name: str, ports: Ports) -> None:
    """Delete what is left of finished runs: in the object store first, else the next `train` went on from there.

    A store that does not let it is told of and no error, the output is complete: the next `train` tries again.
    """
    for finished in scratch.glob(f"*{FINISHED}"):
        trouble = ""
        try:
            if ports.store:
                Mirror(finished, ports.store, prefix=f"{name}/{finished.stem}").clear()
        except LimnerError as error:
            trouble = " ".join(str(error).splitlines())
        shutil.rmtree(finished, ignore_errors=True)  # another process may be at it
        if trouble:
            finished.mkdir(exist_ok=True)
            ports.notice(f"has finished, but the object store still has its checkpoints: {trouble}")


def _write_run_id(place: Path, run_id: str) -> None:
    partial = place / "run.json.tmp"
    partial.write_text(json.dumps({"run_id": run_id}), encoding="utf-8")
    partial.replace(place / "run.json")


def _read_run_id(place: Path) -> str:
    try:
        return str(json.loads((place / "run.json").read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError):
        return ""


def _describe(tracked: Run, settings: ModelSettings[MethodSettings], packed: PackedDataset, *, name: str) -> None:
    # How the model is judged, exported and promoted can change later; MLflow's parameters cannot.
    document = settings.model_dump(mode="json", include={"dataset", "method", "train"})
    tracked.params({key: str(value) for key, value in flat(document).items()})
    tracked.dataset(settings.dataset, digest=packed.digest, source=str(packed.manifest.settings["source"]["kind"]))
    tracked.tags({"limner.model": name, "limner.dataset_digest": packed.digest})


def assemble(  # noqa: PLR0913 - it is where all of them meet
    settings: ModelSettings[MethodSettings],
    method: TrainingMethod,
    packed: PackedDataset,
    *,
    place: Path,
    ports: Ports,
    tracked: Run | None = None,
    mirror: Mirror | None = None,
    writes: bool = True,
) -> TrainingRun:
    """Everything that the loop works with. Who does not write takes part in the steps and the judging alone."""
    train_settings = settings.train
    device = next(method.networks.parameters()).device
    (place / "samples").mkdir(exist_ok=True)
    count = GRID_PICTURES if method.task == "pictures" else GRID_PICTURES // 2
    examples = showcase_batch(packed, task=method.task, split="train", count=count, device=device)
    average = Average(
        method.product(),
        half_life_kimg=train_settings.ema_half_life_kimg,
        ramp=train_settings.ema_ramp,
        total_images=round(train_settings.kimg * 1000),
    )
    batches = open_batches(
        packed,
        task=method.task,
        batch=train_settings.batch,
        seed=train_settings.seed,
        device=device,
        augmentation=Augmentation(train_settings.augment_pixels, train_settings.mirror, train_settings.crop),
    )
    if train_settings.compile and not getattr(method, "calls_product", True):
        ports.notice(f"trains without torch.compile: {settings.method.name} calls parts of its networks by themselves")
    elif train_settings.compile:
        part = batches.at(0, parts=train_settings.batch // (train_settings.micro_batch or train_settings.batch))
        inputs = method.product_inputs(part, generator(train_settings.seed, "compile", device=device))
        with autocast(choose_precision(train_settings.precision, device), device):
            if failure := compile_network(method.product(), inputs):
                ports.notice(f"trains without torch.compile: {failure}")

    def tell(line: Line) -> None:
        if tracked and "metrics" in line:
            tracked.metrics(line["metrics"], images_seen=line["images"])
        elif tracked:
            sentence = describe_event(line)
            # Several can happen at one moment, and the run can go back to one moment several times.
            kind = ".".join(str(line[key]).replace(" ", "-") for key in ("event", "times") if key in line)
            tracked.tags({f"limner.event.{line['images']:09d}.{kind}": sentence})
            ports.notice(sentence)

    # A translation is shown below what it was made of, and above what it should be where that is known.
    before = [to_uint8(examples.source.images).cpu()] if isinstance(examples, UnpairedPictures) else []
    truth = [to_uint8(examples.target.images).cpu()] if isinstance(examples, Pairs) else []

    def draw_samples(product: nn.Module, images_seen: int) -> None:
        made = draw(method, product, [examples], seed=train_settings.seed)
        sheet = bands([*before, made, *truth], columns=GRID_COLUMNS)
        (place / "samples" / f"{images_seen:09d}.png").write_bytes(encode_png(sheet))
        if tracked:
            tracked.picture("samples", sheet, images_seen=images_seen)

    return TrainingRun(
        method=method,
        batches=batches,
        settings=train_settings,
        device=device,
        average=average,
        best=Best(),
        checkpoints=Checkpoints(
            place / "checkpoints",
            identity=_identity(settings, packed.digest),
            keep=train_settings.keep_checkpoints,
            written=mirror.push if mirror else lambda: None,
        ),
        journal=Journal(place / "journal.jsonl", listener=tell),
        progress=ports.progress if tracked else lambda *_: None,
        draw_samples=draw_samples if writes else lambda *_: None,
        watch=_watch(settings, method, packed) if writes else lambda _: {},
        judge=_judge(settings, method, packed, ports=ports),
    )


def _watch(
    settings: ModelSettings[MethodSettings], method: TrainingMethod, packed: PackedDataset
) -> Callable[[nn.Module], Mapping[str, float]]:
    device = next(method.networks.parameters()).device
    return HealthCheck(method, packed, seed=settings.train.seed, crop=settings.train.crop, device=device)


def _judge(
    settings: ModelSettings[MethodSettings], method: TrainingMethod, packed: PackedDataset, *, ports: Ports
) -> Callable[[nn.Module], Mapping[str, float]]:
    if not settings.train.judge_kimg:
        return lambda product: {}
    device = next(method.networks.parameters()).device

    def open_judge() -> QuickJudging:
        return open_quick_judging(settings.evaluate, packed, task=method.task, device=device, ports=ports)

    quick, seed = distributed.first_alone(open_judge), settings.evaluate.seed
    batches = quick.batches
    if not distributed.same_everywhere(quick.extractor):
        raise LimnerError(
            "The processes judge by different extractors, so their figures cannot be put together.",
            why="On machines that share no folder each has trained its own classifier, and they came out unlike.",
            fix="Give all of them one cache folder: LIMNER_CACHE on a disk that they share.",
        )

    def judge(product: nn.Module) -> Mapping[str, float]:
        return quick.judge(
            distributed.divided(
                lambda number: draw_batch(method, product, batches[number], number, seed=seed), len(batches)
            )
        )

    return judge


def _collect(
    folder: Path, settings: ModelSettings[MethodSettings], packed: PackedDataset, *, run: TrainingRun, place: Path
) -> None:
    save_config(folder, settings.method, training_shape(settings, packed), packed.classes())
    save_product(folder / "last", run.average.network)
    # Where nobody judged, the last is the best that is known.
    save_weights(folder / "best", run.best.weights or run.average.network.state_dict())
    shutil.copytree(place / "samples", folder / "samples")
    shutil.copy2(place / "journal.jsonl", folder / "journal.jsonl")
    shutil.copy2(place / "run.json", folder / "run.json")
    _write_curves(folder / "curves.csv", read_journal(place / "journal.jsonl"))


def _write_curves(path: Path, lines: list[Line]) -> None:
    """The journal's figures as a table for DVC's plots: a row a moment, a column a figure."""
    rows = [
        {"images": line["images"], **line["metrics"]} for line in lines if "loss/generator" in line.get("metrics", {})
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [c.replace("/", "_") for c in columns])
        writer.writeheader()
        writer.writerows({key.replace("/", "_"): value for key, value in row.items()} for row in rows)
