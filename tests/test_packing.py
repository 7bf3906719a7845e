"""Packed datasets: what is written is what is read, and what is damaged is refused."""

import hashlib
import json

import numpy as np
import pytest

from limner import packing
from limner.errors import LimnerError
from limner.packing import (
    DomainRecord,
    FileRecord,
    ImageRecord,
    Manifest,
    PackedDataset,
    SplitRecord,
    SplitWriter,
)
from limner.tasks import PictureShape

IMAGE = ImageRecord(height=4, width=6, channels=3)
PICTURES = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3


def write_split(folder, pictures, labels, *, name="train", domain="pictures", per_shard=4):
    with SplitWriter(folder, domain=domain, split=name, image=IMAGE, shard_bytes=per_shard * IMAGE.nbytes) as writer:
        for index, picture in enumerate(pictures):
            writer.add(picture, None if labels is None else int(labels[index]))
        return writer.finish(labelled=labels is not None)


def write_domain(folder, *, domain="pictures", labels=LABELS, validation=2, per_shard=4):
    def part(name, where):
        return write_split(
            folder,
            PICTURES[where],
            None if labels is None else labels[where],
            name=name,
            domain=domain,
            per_shard=per_shard,
        )

    splits = {"train": part("train", slice(validation, None)), "validation": part("validation", slice(validation))}
    classes = () if labels is None else ("a", "b", "c")
    return DomainRecord(classes=classes, splits=splits, fingerprint="f", rejected={}, notes={})


def write_manifest(folder, domains, *, task="pictures"):
    return Manifest(
        schema_version=1, task=task, image=IMAGE, domains=domains, settings={"source": {}}, licence="CC0"
    ).write(folder)


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path, {"pictures": write_domain(tmp_path)})
    return tmp_path


def edit_manifest(folder, change):
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


# -- what is written is what is read ----------------------------------------------------------------------------------


def test_pictures_and_labels_come_back_across_shards_in_the_order_asked_for(folder):
    split = PackedDataset(folder, verify=True).split("train")
    order = np.array([7, 0, 3, 4, 4, 1])
    assert split.count == 8
    assert np.array_equal(split.pixels(order), PICTURES[2:][order])
    assert np.array_equal(split.labels, LABELS[2:])
    assert split.labels.dtype == np.int64
    assert split.nbytes == 8 * 4 * 6 * 3


def test_pixels_are_a_copy_that_may_be_written_to(folder):
    split = PackedDataset(folder).split("train")
    split.pixels(np.array([0]))[:] = 0
    assert np.array_equal(split.pixels(np.array([0])), PICTURES[2:3])


def test_a_shard_is_raw_bytes_and_ends_at_its_size(folder):
    dataset = PackedDataset(folder)
    assert [shard.count for shard in dataset.manifest.domains["pictures"].splits["train"].shards] == [4, 4]
    assert (folder / "pictures/train-00001.raw").read_bytes() == PICTURES[6:].tobytes()


def test_a_shard_smaller_than_a_picture_still_holds_one(tmp_path):
    record = write_split(tmp_path, PICTURES[:2], None, per_shard=0)
    assert [shard.count for shard in record.shards] == [1, 1]


def test_a_dataset_of_more_shards_than_may_be_open_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "OPEN_SHARDS", 2)
    write_manifest(tmp_path, {"pictures": write_domain(tmp_path, per_shard=1)})
    split = PackedDataset(tmp_path).split("train")
    for _ in range(2):
        assert np.array_equal(split.pixels(np.arange(8)), PICTURES[2:])


def test_the_manifest_says_what_is_in_the_dataset(folder):
    dataset = PackedDataset(folder)
    assert (dataset.task, dataset.domains, dataset.classes()) == ("pictures", ("pictures",), ("a", "b", "c"))
    assert dataset.shape() == PictureShape(channels=3, height=4, width=6, classes=3)
    assert dataset.manifest.licence == "CC0"
    assert dataset.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_the_digest_that_is_written_is_the_digest_that_is_read(tmp_path):
    digest = write_manifest(tmp_path, {"pictures": write_domain(tmp_path)})
    assert PackedDataset(tmp_path).digest == digest


def test_an_empty_split_is_a_split(tmp_path):
    write_manifest(tmp_path, {"pictures": write_domain(tmp_path, validation=0)})
    split = PackedDataset(tmp_path, verify=True).split("validation")
    assert (split.count, split.nbytes, len(split.labels)) == (0, 0, 0)
    assert split.pixels(np.array([], dtype=np.int64)).shape == (0, 4, 6, 3)


def test_pictures_without_classes_have_no_labels(tmp_path):
    write_manifest(tmp_path, {"pictures": write_domain(tmp_path, labels=None)})
    dataset = PackedDataset(tmp_path)
    assert dataset.split("train").labels is None
    assert dataset.shape().classes == 0
    assert not list(tmp_path.glob("pictures/*.npy"))


def test_two_domains_are_kept_apart(tmp_path):
    domains = {name: write_domain(tmp_path, domain=name, validation=n) for name, n in (("source", 2), ("target", 5))}
    write_manifest(tmp_path, domains, task="unpaired")
    dataset = PackedDataset(tmp_path)
    assert dataset.domains == ("source", "target")
    assert np.array_equal(dataset.split("train", "target").pixels(np.arange(5)), PICTURES[5:])
    assert dataset.split("train", "source").count == 8


def test_a_method_is_made_for_the_target_and_knows_the_classes_of_the_source(tmp_path):
    labels = {"source": LABELS, "target": None}
    domains = {name: write_domain(tmp_path, domain=name, labels=labels[name]) for name in labels}
    write_manifest(tmp_path, domains, task="paired")
    dataset = PackedDataset(tmp_path)
    assert dataset.shape() == PictureShape(channels=3, height=4, width=6, classes=0, source_classes=3)
    assert dataset.shape("source") == PictureShape(channels=3, height=4, width=6, classes=3)
    assert (dataset.classes(), dataset.classes("source")) == ((), ("a", "b", "c"))


def test_pairs_with_unequal_counts_are_refused(tmp_path):
    domains = {name: write_domain(tmp_path, domain=name, validation=n) for name, n in (("source", 2), ("target", 5))}
    write_manifest(tmp_path, domains, task="paired")
    with pytest.raises(LimnerError, match=r"manifest\.json is damaged\.\nA picture has no partner"):
        PackedDataset(tmp_path)


# -- what is wrong is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 8])
def test_an_index_outside_is_an_error(folder, index):
    with pytest.raises(IndexError, match=f"{index} .*8 pictures"):
        PackedDataset(folder).split("train").pixels(np.array([index]))


def test_an_unknown_domain_is_named_with_the_known_ones(folder):
    with pytest.raises(LimnerError, match=r"no domain 'picture'\.\nDid you mean 'pictures'"):
        PackedDataset(folder).split("train", "picture")


def test_a_missing_dataset_says_how_to_make_it(tmp_path):
    with pytest.raises(LimnerError, match=r"(?s)no packed dataset in .*nowhere.*limner prepare"):
        PackedDataset(tmp_path / "nowhere")


def test_another_schema_version_is_refused(folder):
    edit_manifest(folder, lambda document: document.update(schema_version=2, something="new"))
    with pytest.raises(LimnerError, match=r"(?s)schema version 2; this Limner reads 1.*limner prepare"):
        PackedDataset(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}', '"text"', "null"])
def test_a_damaged_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(LimnerError, match=r"(?s)manifest.json is damaged.*limner prepare"):
        PackedDataset(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["domains"]["pictures"]["splits"].pop("validation"),
        lambda document: document["domains"].clear(),
        lambda document: document.update(task="unpaired"),
        lambda document: document["domains"]["pictures"]["splits"]["train"].update(count=7),
        lambda document: document["domains"]["pictures"]["splits"]["train"]["labels"].update(count=7),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder, change):
    edit_manifest(folder, change)
    with pytest.raises(LimnerError, match=r"manifest\.json is damaged"):
        PackedDataset(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "pictures/train-00001.raw").unlink()
    with pytest.raises(LimnerError, match=r"(?s)damaged: .*train-00001.raw.*No such file.*limner prepare"):
        PackedDataset(folder)


def test_a_cut_shard_is_named(folder):
    shard = folder / "pictures/train-00001.raw"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(LimnerError, match=r"(?s)train-00001.raw.*287 bytes instead of 288"):
        PackedDataset(folder)


@pytest.mark.parametrize("file", ["pictures/train-00001.raw", "pictures/train-labels.npy"])
def test_a_changed_byte_is_found_by_verify(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[-8] ^= 1
    (folder / file).write_bytes(content)
    PackedDataset(folder)
    with pytest.raises(LimnerError, match=f"(?s)damaged: .*{file}.*SHA-256 differs"):
        PackedDataset(folder, verify=True)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.arange(7), r"int64 \(7,\) instead of int64 \(8,\)"),
        (np.arange(8, dtype=np.int32), "int32"),
        (np.array([{}] * 8, dtype=object), "cannot be read: .*pickle"),
    ],
)
def test_labels_of_another_kind_are_refused(folder, labels, why):
    np.save(folder / "pictures/train-labels.npy", labels, allow_pickle=True)
    with pytest.raises(LimnerError, match=f"(?s)train-labels.npy.*{why}"):
        PackedDataset(folder)


def test_missing_labels_are_named(folder):
    (folder / "pictures/train-labels.npy").unlink()
    with pytest.raises(LimnerError, match=r"train-labels\.npy"):
        PackedDataset(folder)


def test_a_manifest_cannot_be_changed_in_memory():
    record = SplitRecord(count=1, shards=(FileRecord(file="a", count=1, sha256=""),), labels=None)
    with pytest.raises(ValueError, match="frozen"):
        record.count = 2
