"""Stylizing a prefix in parts: every picture once, whatever the parts, and never twice."""

import io
import json
import shutil
from collections.abc import Iterator

import boto3
import numpy as np
import pytest
from PIL import Image

from limner.adapters.object_store import S3Store
from limner.adapters.untracked import UntrackedRegistry
from limner.errors import LimnerError
from limner.ports import ModelVersion
from limner.steps.stylize import Stylized, StylizeOptions
from limner.steps.stylize_batch import Part, add_up, plan_parts, stylize_part
from tests import s3_stand
from tests.translators import export_translator

OPTIONS = StylizeOptions()


class Registry(UntrackedRegistry):
    """Its champion is the export in a folder."""

    def __init__(self, export):
        self.export = export

    def champion(self, name):
        return ModelVersion(name, "3") if name == "style" else None

    def fetch(self, address, folder):
        assert address == "models:/style/3"
        return shutil.copytree(self.export, folder / "export")


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    return Registry(export_translator(tmp_path_factory.mktemp("translator")))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_stand.server() as address:
        yield address


@pytest.fixture
def bucket(server, monkeypatch) -> str:
    """With twelve pictures below photos/, one of them damaged."""
    name, client = s3_stand.bucket(monkeypatch, server), None
    client = boto3.Session().client("s3")
    for number in range(12):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file, "PNG")
        body = b"no picture" if number == 5 else file.getvalue()
        client.put_object(Bucket=name, Key=f"photos/{number // 6}/{number}.png", Body=body)
    return name


def plan(bucket, registry, parts, model="models:/style@champion"):
    source = f"s3://{bucket}/photos"
    return plan_parts(source, store=S3Store(source), model=model, parts=parts, registry=registry, options=OPTIONS)


def do(bucket, registry, parts, to="painted") -> list[Stylized]:
    source, destination = f"s3://{bucket}/photos", f"s3://{bucket}/{to}"
    return [
        stylize_part(
            part,
            source=source,
            destination=destination,
            stores=(S3Store(source), S3Store(destination)),
            registry=registry,
            options=OPTIONS,
        )
        for part in plan(bucket, registry, parts)
    ]


def keys(bucket, prefix):
    return {key for key in S3Store(f"s3://{bucket}/{prefix}").sizes("") if key.endswith(".png")}


def test_all_parts_together_do_every_picture_once(bucket, registry):
    total = add_up(do(bucket, registry, 3))
    assert (total.done, total.skipped, total.refused) == (11, 0, 1)
    assert any("photos/0/5.png" in note for note in total.notes)
    assert keys(bucket, "painted") == keys(bucket, "photos") - {"0/5.png"}


def test_a_part_does_what_one_call_does(bucket, registry):
    do(bucket, registry, 4, to="by-four")
    do(bucket, registry, 1, to="by-one")
    client = boto3.Session().client("s3")
    for key in keys(bucket, "by-one"):
        four, one = (client.get_object(Bucket=bucket, Key=f"{p}/{key}")["Body"].read() for p in ("by-four", "by-one"))
        assert four == one


def test_what_is_done_is_skipped_also_when_the_parts_are_others(bucket, registry):
    do(bucket, registry, 3)
    again = add_up(do(bucket, registry, 5))
    assert (again.done, again.skipped) == (0, 11)


def test_a_picture_belongs_to_a_part_by_its_name_alone():
    names = [f"{number}.png" for number in range(200)]
    parts = [Part(number, 7, "models:/m/1") for number in range(7)]
    assert [sum(part.has(name) for part in parts) for name in names] == [1] * 200
    assert min(sum(part.has(name) for name in names) for part in parts) > 10


def test_the_champion_is_named_by_its_version_so_that_all_parts_use_one_model(bucket, registry):
    planned = [json.loads(part) for part in plan(bucket, registry, 50)]
    assert {part["model"] for part in planned} == {"models:/style/3"}
    assert 1 < len(planned) <= 12, "parts without pictures are left out"


def test_wishes_that_cannot_be_met_are_refused(bucket, registry):
    with pytest.raises(LimnerError, match="0 parts cannot be made"):
        plan(bucket, registry, 0)
    with pytest.raises(LimnerError, match="other has no champion"):
        plan(bucket, registry, 2, model="models:/other@champion")
    empty = f"s3://{bucket}/nothing"
    wishes = {"model": "models:/style/3", "parts": 2, "registry": registry, "options": OPTIONS}
    with pytest.raises(LimnerError, match="no picture to stylize"):
        plan_parts(empty, store=S3Store(empty), **wishes)
    with pytest.raises(LimnerError, match="would be sources of the next call"):
        do(bucket, registry, 1, to="photos/painted")
