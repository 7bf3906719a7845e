"""Prepare: any source becomes the same bytes every time; bad pictures are set aside, bad sources refused."""

import hashlib
import json
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.errors import LimnerError
from limner.packing import PackedDataset
from limner.settings import DatasetSettings
from limner.steps.domain_packer import DomainPacker
from limner.steps.prepare import prepare


def described(source, *, size=16, channels=3, fit="none", validation=0.25, image=None, **more):
    image = {"size": size, "channels": channels, "fit": fit} | (image or {})
    return DatasetSettings.model_validate({"source": source, "image": image, "validation": validation} | more)


def folder_of(path, **more):
    return described({"kind": "folder", "path": str(path)}, **more)


def class_folders_of(path, **more):
    return described({"kind": "class-folders", "path": str(path)}, **more)


def picture(seed, *, side=16):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_pictures(folder, count, *, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.fromarray(picture(number)).save(folder / f"{number:04d}.png")
    return folder


def rejected(output):
    rows = [json.loads(line) for line in (output / "rejected.jsonl").read_text("utf-8").splitlines()]
    return {row["name"]: row for row in rows}


def all_pixels(output, split, domain="pictures"):
    part = PackedDataset(output).split(split, domain)
    return part.pixels(np.arange(part.count))


def bytes_of(output):
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file() and path.name != "lineage.json"
    }


def same_set(left, right):
    return sorted(x.tobytes() for x in left) == sorted(x.tobytes() for x in right)


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_every_picture_is_in_one_split_and_nothing_is_changed(tmp_path):
    source = write_pictures(tmp_path / "raw", 40)
    result = prepare(folder_of(source), name="noise", output=tmp_path / "out")
    train, validation = all_pixels(tmp_path / "out", "train"), all_pixels(tmp_path / "out", "validation")
    assert same_set([*train, *validation], [picture(number) for number in range(40)])
    assert result.counts == {"pictures/train": len(train), "pictures/validation": len(validation)}
    assert (result.output, result.rejected) == (tmp_path / "out", 0)
    assert result.digest == PackedDataset(tmp_path / "out", verify=True).digest


def test_labels_follow_their_pictures(tmp_path):
    for first, name in enumerate(("zebra", "ant", "mole")):
        write_pictures(tmp_path / "raw" / name, 20, first=20 * first)
    prepare(class_folders_of(tmp_path / "raw"), name="x", output=tmp_path / "out")
    dataset = PackedDataset(tmp_path / "out")
    assert dataset.classes() == ("ant", "mole", "zebra")
    truth = {picture(number).tobytes(): ("zebra", "ant", "mole")[number // 20] for number in range(60)}
    for name in ("train", "validation"):
        split = dataset.split(name)
        pixels = split.pixels(np.arange(split.count))
        assert [dataset.classes()[label] for label in split.labels] == [truth[each.tobytes()] for each in pixels]


def test_the_manifest_and_the_lineage_say_what_was_done(tmp_path):
    source = write_pictures(tmp_path / "raw", 12)
    settings = folder_of(source, licence="CC0-1.0", size=20, fit="pad", image={"background": 9})
    result = prepare(settings, name="noise", output=tmp_path / "out")
    manifest = PackedDataset(tmp_path / "out").manifest
    assert (manifest.schema_version, manifest.task, manifest.licence) == (1, "pictures", "CC0-1.0")
    assert manifest.image.model_dump() == {"height": 20, "width": 20, "channels": 3, "dtype": "uint8"}
    assert manifest.settings["source"] == {"kind": "folder", "path": "raw"}
    assert manifest.settings["image"]["background"] == 9
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    expected = {
        "step": "prepare",
        "dataset": "noise",
        "dataset_digest": result.digest,
        "source_fingerprint": manifest.domains["pictures"].fingerprint,
    }
    assert expected.items() <= lineage.items()


def test_shards_are_as_large_as_the_settings_say(tmp_path):
    write_pictures(tmp_path / "raw", 10)
    prepare(
        folder_of(tmp_path / "raw", size=256, fit="crop", shard_mib=1, validation=0), name="x", output=tmp_path / "o"
    )
    shards = PackedDataset(tmp_path / "o", verify=True).manifest.domains["pictures"].splits["train"].shards
    assert [shard.count for shard in shards] == [5, 5]  # 192 KiB a picture


# -- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path):
    digests = []
    for place in ("here", "there/deeper"):
        source = write_pictures(tmp_path / place / "raw", 30)
        (source / "broken.png").write_bytes(b"no")
        (source / "again.png").write_bytes((source / "0000.png").read_bytes())
        digests.append(prepare(folder_of(source), name="x", output=tmp_path / place / "out").digest)
    assert digests[0] == digests[1]
    assert bytes_of(tmp_path / "here/out") == bytes_of(tmp_path / "there/deeper/out")
    for path in (tmp_path / "here/out").rglob("*"):
        assert path.is_dir() or path.name == "lineage.json" or str(tmp_path).encode() not in path.read_bytes()


def test_preparing_again_changes_nothing_and_replaces_what_was_there(tmp_path):
    source = write_pictures(tmp_path / "raw", 12)
    first = prepare(folder_of(source), name="x", output=tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    assert prepare(folder_of(source), name="x", output=tmp_path / "out") == first
    assert bytes_of(tmp_path / "out") == before
    write_pictures(source, 1, first=99)
    assert prepare(folder_of(source), name="x", output=tmp_path / "out").digest != first.digest
    assert len(all_pixels(tmp_path / "out", "train")) + len(all_pixels(tmp_path / "out", "validation")) == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_another_input_and_other_settings_give_another_digest(tmp_path):
    source = write_pictures(tmp_path / "raw", 12)
    digests = {
        prepare(folder_of(source, **more), name="x", output=tmp_path / "out").digest
        for more in ({}, {"channels": 1}, {"validation": 0.3}, {"licence": "x"}, {"image": {"background": 1}})
    }
    (source / "0000.png").rename(source / "renamed.png")
    digests.add(prepare(folder_of(source), name="x", output=tmp_path / "out").digest)
    assert len(digests) == 6


def test_the_fingerprint_tells_files_apart_that_hold_the_same_pixels(tmp_path):
    def fingerprint():
        prepare(folder_of(tmp_path / "raw"), name="x", output=tmp_path / "out")
        return PackedDataset(tmp_path / "out").manifest.domains["pictures"].fingerprint

    write_pictures(tmp_path / "raw", 3)
    before, pixels = fingerprint(), bytes_of(tmp_path / "out")["pictures/train-00000.raw"]
    Image.fromarray(picture(0)).save(tmp_path / "raw" / "0000.png", compress_level=0)
    assert fingerprint() != before
    assert bytes_of(tmp_path / "out")["pictures/train-00000.raw"] == pixels


def test_folder_tar_and_zip_give_the_same_pictures_and_labels(tmp_path):
    for first, name in enumerate(("a", "b")):
        write_pictures(tmp_path / "raw" / name, 10, first=10 * first)
    with tarfile.open(tmp_path / "raw.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "raw", "train")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as packed:
        for path in sorted((tmp_path / "raw").rglob("*.png")):
            packed.write(path, path.relative_to(tmp_path))
    shards = set()
    for path in ("raw", "raw.tar.gz", "raw.zip"):
        prepare(class_folders_of(tmp_path / path), name="x", output=tmp_path / "out")
        dataset = PackedDataset(tmp_path / "out")
        train = dataset.split("train")
        pairs = zip(train.pixels(np.arange(train.count)), train.labels, strict=True)
        shards.add(tuple(sorted((pixels.tobytes(), int(label)) for pixels, label in pairs)))
    assert len(shards) == 1


# -- the split --------------------------------------------------------------------------------------------------------


def test_the_share_of_validation_is_about_what_was_asked_for(tmp_path):
    settings = described({"kind": "printed-digits", "count": 1000}, size=28, channels=1, validation=0.2)
    counts = prepare(settings, name="x", output=tmp_path / "out").counts
    assert sum(counts.values()) == 1000
    assert 150 < counts["pictures/validation"] < 250


def test_a_picture_stays_on_its_side_when_others_come_and_go(tmp_path):
    prepare(folder_of(write_pictures(tmp_path / "few", 40)), name="x", output=tmp_path / "out_few")
    prepare(folder_of(write_pictures(tmp_path / "many", 80)), name="x", output=tmp_path / "out_many")
    few = {each.tobytes() for each in all_pixels(tmp_path / "out_few", "validation")}
    many = {each.tobytes() for each in all_pixels(tmp_path / "out_many", "validation")}
    assert len(few) > 1
    assert few < many


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("validation", [0.0001, 0.5])
def test_no_split_of_a_small_set_is_empty(tmp_path, count, validation):
    for attempt in range(4):
        source = write_pictures(tmp_path / str(attempt), count, first=100 * attempt)
        counts = prepare(folder_of(source, validation=validation), name="x", output=tmp_path / "out").counts
        assert min(counts.values()) >= 1
        assert sum(counts.values()) == count


def test_who_is_moved_to_an_empty_validation_is_the_one_with_the_lowest_hash(tmp_path):
    prepare(folder_of(write_pictures(tmp_path / "raw", 20), validation=1e-9), name="x", output=tmp_path / "out")
    ranked = sorted((picture(number) for number in range(1, 20)), key=lambda p: hashlib.sha256(p.tobytes()).digest())
    [chosen] = all_pixels(tmp_path / "out", "validation")
    assert np.array_equal(chosen, ranked[0])  # of all but the first, which always trains


def test_a_single_picture_trains(tmp_path):
    counts = prepare(folder_of(write_pictures(tmp_path / "raw", 1)), name="x", output=tmp_path / "out").counts
    assert counts == {"pictures/train": 1, "pictures/validation": 0}


def test_without_validation_everything_trains(tmp_path):
    source = write_pictures(tmp_path / "raw", 20)
    counts = prepare(folder_of(source, validation=0), name="x", output=tmp_path / "out").counts
    assert counts == {"pictures/train": 20, "pictures/validation": 0}


def test_every_class_has_a_picture_to_train_on(tmp_path):
    for number in range(30):
        write_pictures(tmp_path / "raw" / f"{number:02d}", 2, first=2 * number)
    prepare(class_folders_of(tmp_path / "raw", validation=0.5), name="x", output=tmp_path / "out")
    assert set(PackedDataset(tmp_path / "out").split("train").labels) == set(range(30))


def test_with_one_picture_a_class_validation_still_gets_one(tmp_path):
    for number in range(3):
        write_pictures(tmp_path / "raw" / str(number), 1, first=number)
    counts = prepare(class_folders_of(tmp_path / "raw"), name="x", output=tmp_path / "out").counts
    assert counts == {"pictures/train": 2, "pictures/validation": 1}


# -- the kinds of sources ---------------------------------------------------------------------------------------------


def cifar10_folder(folder, *, copied_to_test=0):
    folder.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (6, 10, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(10)
    records[5, :copied_to_test] = records[0, :copied_to_test]
    for name, batch in zip([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], records, strict=True):
        batch.tofile(folder / f"{name}.bin")
    return folder


def test_the_test_batch_of_cifar10_is_its_validation_split(tmp_path):
    source = {"kind": "cifar10", "path": str(cifar10_folder(tmp_path / "raw", copied_to_test=2))}
    result = prepare(described(source, size=32, validation=0.1), name="x", output=tmp_path / "out")
    assert result.counts == {"pictures/train": 50, "pictures/validation": 8}
    row = rejected(tmp_path / "out")["test_batch/00001"]
    assert (row["reason"], row["detail"]) == ("duplicate", "the same pixels as data_batch_1/00001")


def test_without_validation_the_test_batch_of_cifar10_is_left_out_and_noted(tmp_path):
    source = {"kind": "cifar10", "path": str(cifar10_folder(tmp_path / "raw"))}
    result = prepare(described(source, size=32, validation=0), name="x", output=tmp_path / "out")
    assert result.counts == {"pictures/train": 50, "pictures/validation": 0}
    notes = PackedDataset(tmp_path / "out").manifest.domains["pictures"].notes
    assert notes == {"held out by the publisher: left out, because validation is 0": 10}


def test_two_domains_are_prepared_side_by_side(tmp_path):
    source = {
        "kind": "unpaired",
        "source": {"kind": "printed-digits", "count": 20},
        "target": {"kind": "folder", "path": str(write_pictures(tmp_path / "raw", 12))},
    }
    (tmp_path / "raw" / "x.png").write_bytes(b"no")
    result = prepare(described(source, channels=1, fit="crop"), name="x", output=tmp_path / "out")
    dataset = PackedDataset(tmp_path / "out", verify=True)
    assert (dataset.task, dataset.domains) == ("unpaired", ("source", "target"))
    assert (dataset.shape("source").classes, dataset.shape("target").classes) == (10, 0)
    assert sum(count for name, count in result.counts.items() if name.startswith("source/")) == 20
    assert sum(count for name, count in result.counts.items() if name.startswith("target/")) == 12
    assert rejected(tmp_path / "out")["x.png"]["domain"] == "target"
    assert result.rejected == 1
    assert len(json.loads((tmp_path / "out/lineage.json").read_text())["source_fingerprint"].split(",")) == 2


@pytest.mark.shared_data
@pytest.mark.skipif("LIMNER_SHARED_DATA" not in os.environ, reason="LIMNER_SHARED_DATA names no folder of image sets")
def test_the_real_cifar10_has_ten_classes_of_a_thousand_and_its_published_colours(tmp_path):
    archive = Path(os.environ["LIMNER_SHARED_DATA"], "cifar10-train-0.tar")
    counts = prepare(class_folders_of(archive, size=32), name="x", output=tmp_path / "out").counts
    assert sum(counts.values()) == 10_000
    dataset = PackedDataset(tmp_path / "out", verify=True)
    labels = np.concatenate([dataset.split(name).labels for name in ("train", "validation")])
    assert np.bincount(labels).tolist() == [1000] * 10
    assert dataset.classes()[::9] == ("airplane", "truck")
    pixels = np.concatenate([all_pixels(tmp_path / "out", name) for name in ("train", "validation")])
    # The published mean is that of all 50,000; this is a fifth of them.
    assert np.allclose(pixels.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=0.005)


@pytest.mark.parametrize(
    ("source", "count"), [({"kind": "mnist5k"}, 5000), ({"kind": "printed-digits", "count": 20}, 20)]
)
def test_pictures_of_a_package_that_are_smaller_than_allowed_are_all_set_aside(tmp_path, source, count):
    settings = described(source, size=32, image={"min_side": 64})
    with pytest.raises(
        LimnerError, match=rf"(?s)Not one picture .*Set aside: {count} too small\..*28x28, min_side is 64"
    ):
        prepare(settings, name="x", output=tmp_path / "out")


# -- bad pictures -----------------------------------------------------------------------------------------------------


def bomb():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


GOOD = (
    "alpha.png",
    "animated.gif",
    "cmyk.jpg",
    "exif.png",
    "grey16.png",
    "palette.png",
    "Überfluß 画像.png",
    "plain.png",
)
BAD = {
    "1x1.png": "too small",
    "bomb.png": "too large",
    "broken-link.png": "broken link",
    "copy.png": "duplicate",
    "loop.png": "link loop",
    "folder-loop": "link loop",
    "folder.png": "not a regular file",
    "pipe.png": "not a regular file",
    "text.png": "not a picture",
    "truncated.jpg": "damaged",
    "unreadable.png": "unreadable",
    "*.txt": "other file type",
    ".*": "hidden",
    "empty": "empty folder",
}


def write_zoo(folder):
    """A folder with one of everything that a folder of pictures should not hold, or that is easily read wrongly."""
    folder.mkdir(parents=True)
    Image.fromarray(picture(1)).convert("RGBA").save(folder / "alpha.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(picture(2)).convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3)).save(folder / "exif.png", exif=exif)
    Image.fromarray(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)).save(folder / "grey16.png")
    Image.fromarray(picture(4)).quantize(16).save(folder / "palette.png", transparency=0)
    Image.fromarray(picture(5)).save(folder / "Überfluß 画像.png")
    Image.fromarray(picture(6)).save(folder / "plain.png")
    return folder


def spoil(folder):
    Image.new("RGB", (1, 1)).save(folder / "1x1.png")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "broken-link.png").symlink_to("nowhere")
    (folder / "copy.png").write_bytes((folder / "alpha.png").read_bytes())
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "folder-loop").symlink_to("..", target_is_directory=True)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "text.png").write_text("dear diary")
    Image.fromarray(picture(7, side=64)).save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:2000])
    (folder / "unreadable.png").symlink_to("/proc/self/mem")  # nobody can read its first byte, not even root
    (folder / "notes.txt").write_text("about")
    (folder / ".DS_Store").write_text("")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
@pytest.mark.parametrize("kind", ["folder", "class-folders", "source", "target"])
def test_of_a_folder_full_of_traps_the_good_are_kept_and_the_bad_are_listed(tmp_path, kind, capfd):
    zoo = spoil(write_zoo(tmp_path / "raw" / "zoo"))
    if kind == "class-folders":
        settings, prefix = class_folders_of(tmp_path / "raw"), "zoo/"
    elif kind == "folder":
        settings, prefix = folder_of(zoo), ""
    else:
        digits = {"kind": "printed-digits", "count": 10}
        domains = {"source": digits, "target": digits, kind: {"kind": "folder", "path": str(zoo)}}
        settings, prefix = described({"kind": "unpaired"} | domains), ""
    result = prepare(settings, name="zoo", output=tmp_path / "out")
    domain = kind if kind in ("source", "target") else "pictures"
    counts = [count for name, count in result.counts.items() if name.startswith(f"{domain}/")]
    assert sum(counts) == len(GOOD)
    rows = {name.removeprefix(prefix): row["reason"] for name, row in rejected(tmp_path / "out").items()}
    assert rows == BAD
    assert result.rejected == len(BAD)
    record = PackedDataset(tmp_path / "out", verify=True).manifest.domains[domain]
    assert record.rejected["link loop"] == 2
    assert sum(record.rejected.values()) == len(BAD)
    assert record.notes == {
        "CMYK: converted without its colour profile": 1,
        "EXIF orientation applied": 1,
        "several frames: first frame used": 1,
    }
    pixels = np.concatenate([all_pixels(tmp_path / "out", split, domain) for split in ("train", "validation")])
    kept = {each.tobytes() for each in pixels}
    assert {picture(5).tobytes(), np.rot90(picture(3), 3).tobytes(), picture(1).tobytes()} <= kept
    assert np.tile(np.uint8([255, 0, 0]), (16, 16, 1)).tobytes() in kept
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_of_an_archive_full_of_traps_the_good_are_kept_and_the_bad_are_listed(tmp_path, suffix):
    zoo = write_zoo(tmp_path / "zoo")
    for name in ("1x1.png", "bomb.png", "text.png", "truncated.jpg", "notes.txt", ".DS_Store", "copy.png"):
        content = {"bomb.png": bomb(), "copy.png": (zoo / "alpha.png").read_bytes()}.get(name, b"no")
        (zoo / name).write_bytes(content)
    Image.new("RGB", (1, 1)).save(zoo / "1x1.png")
    (zoo / "truncated.jpg").write_bytes((zoo / "cmyk.jpg").read_bytes()[:-400])
    archive = tmp_path / f"zoo{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(zoo.iterdir()):
                packed.write(path, f"all/{path.name}")
    else:
        with tarfile.open(archive, "w:gz" if suffix == ".tar.gz" else "w") as packed:
            packed.add(zoo, "all")
    result = prepare(folder_of(archive), name="zoo", output=tmp_path / "out")
    assert sum(result.counts.values()) == len(GOOD)
    rows = {name.removeprefix("all/"): row["reason"] for name, row in rejected(tmp_path / "out").items()}
    # Of the two with the same content, an unsorted archive keeps the one that comes first.
    assert {"duplicate"} == {rows.pop(name) for name in ("copy.png", "alpha.png") if name in rows}
    assert rows == {name: BAD[name] for name in ("1x1.png", "bomb.png", "text.png", "truncated.jpg", "*.txt", ".*")}


def test_equal_pictures_are_kept_once_and_the_others_name_the_first(tmp_path):
    write_pictures(tmp_path / "raw" / "a", 3)
    write_pictures(tmp_path / "raw" / "b", 3, first=2)
    Image.fromarray(picture(0)).save(tmp_path / "raw" / "a" / "other-file-same-pixels.tiff")
    result = prepare(class_folders_of(tmp_path / "raw"), name="x", output=tmp_path / "out")
    assert sum(result.counts.values()) == 5
    assert {name: row["detail"] for name, row in rejected(tmp_path / "out").items()} == {
        "a/other-file-same-pixels.tiff": "the same pixels as a/0000.png",
        "b/0002.png": "the same pixels as a/0002.png, which is of another class",
    }


def test_a_member_that_is_twice_in_an_archive_is_a_duplicate(tmp_path):
    write_pictures(tmp_path / "raw", 2)
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for name in ("0000.png", "0001.png", "0000.png"):
            packed.add(tmp_path / "raw" / name, name)
    result = prepare(folder_of(tmp_path / "x.tar"), name="x", output=tmp_path / "out")
    assert (sum(result.counts.values()), result.rejected) == (2, 1)


def test_names_that_are_no_text_can_be_listed(tmp_path):
    source = write_pictures(tmp_path / "raw", 2)
    (source / "caf\udce9.png").write_bytes(b"no")  # an é in Latin-1, which is not UTF-8
    prepare(folder_of(source), name="x", output=tmp_path / "out")
    assert list(rejected(tmp_path / "out")) == ["caf\\udce9.png"]


# -- bad sources and places -------------------------------------------------------------------------------------------


def test_where_every_picture_is_set_aside_the_error_counts_the_reasons_and_nothing_is_left(tmp_path):
    (tmp_path / "raw").mkdir()
    for number in range(3):
        (tmp_path / "raw" / f"{number}.png").write_bytes(b"no")
    Image.new("RGB", (1, 1)).save(tmp_path / "raw" / "tiny.png")
    with pytest.raises(
        LimnerError, match=r"(?s)Set aside: 3 not a picture, 1 too small\..*For instance: 0\.png \(not a"
    ):
        prepare(folder_of(tmp_path / "raw"), name="x", output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_class_without_a_usable_picture_is_an_error_that_names_it(tmp_path):
    write_pictures(tmp_path / "raw" / "good", 3)
    for name in ("bad", "worse"):
        (tmp_path / "raw" / name).mkdir()
        (tmp_path / "raw" / name / "x.png").write_bytes(b"no")
    with pytest.raises(LimnerError, match=r"(?s)class 'bad', 'worse' can be used.*2 not a picture.*bad/x.png"):
        prepare(class_folders_of(tmp_path / "raw"), name="x", output=tmp_path / "out")


def test_a_failure_leaves_the_previous_output_as_it_was(tmp_path):
    source = write_pictures(tmp_path / "raw", 6)
    prepare(folder_of(source), name="x", output=tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    for path in source.iterdir():
        path.write_bytes(b"no")
    with pytest.raises(LimnerError, match="Not one picture"):
        prepare(folder_of(source), name="x", output=tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_an_interruption_leaves_no_half_output(tmp_path, monkeypatch):
    source = write_pictures(tmp_path / "raw", 30)

    def interrupted(self, *_, **__):
        if self.labels.total() == 10:
            raise KeyboardInterrupt
        return write(self, *_, **__)

    write = DomainPacker.write
    monkeypatch.setattr(DomainPacker, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder_of(source), name="x", output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_damaged_archive_is_an_error_and_leaves_nothing(tmp_path):
    write_pictures(tmp_path / "raw", 6)
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        packed.add(tmp_path / "raw", "raw")
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:3000])
    with pytest.raises(LimnerError, match=r"x\.tar is damaged or incomplete"):
        prepare(folder_of(tmp_path / "x.tar"), name="x", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_packed_dataset_is_not_overwritten(tmp_path):
    source = write_pictures(tmp_path / "raw", 3)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(LimnerError, match=r"home is not empty and is no packed dataset"):
        prepare(folder_of(source), name="x", output=tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(LimnerError, match=r"thesis\.tex is a file"):
        prepare(folder_of(source), name="x", output=tmp_path / "home" / "thesis.tex")


def test_an_empty_folder_may_be_the_output(tmp_path):
    (tmp_path / "out").mkdir()
    prepare(folder_of(write_pictures(tmp_path / "raw", 3)), name="x", output=tmp_path / "out")
    assert PackedDataset(tmp_path / "out").domains == ("pictures",)


@pytest.mark.parametrize(("source", "output"), [("raw", "raw/out"), ("raw", "raw"), ("raw/deep", "raw")])
def test_output_and_source_may_not_lie_inside_each_other(tmp_path, source, output):
    write_pictures(tmp_path / source, 3)
    with pytest.raises(LimnerError, match=r"lie one inside the other|is no packed dataset"):
        prepare(folder_of(tmp_path / source), name="x", output=tmp_path / output)
    assert len(list((tmp_path / source).glob("*.png"))) == 3


def test_a_missing_folder_is_an_error_with_the_nearest_name(tmp_path):
    write_pictures(tmp_path / "photos", 3)
    with pytest.raises(LimnerError, match=r"There is no folder or archive .*photo\.\nDid you mean .*photos\?"):
        prepare(folder_of(tmp_path / "photo"), name="x", output=tmp_path / "out")


def test_a_link_to_itself_is_an_error_as_source_and_as_output(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LimnerError, match=r"loop cannot be read\.\nToo many levels"):
        prepare(folder_of(tmp_path / "loop"), name="x", output=tmp_path / "out")
    with pytest.raises(LimnerError, match=r"loop is a link that leads nowhere"):
        prepare(folder_of(write_pictures(tmp_path / "raw", 3)), name="x", output=tmp_path / "loop")


# -- cost -------------------------------------------------------------------------------------------------------------


def test_the_memory_it_takes_does_not_grow_with_the_set(tmp_path):
    def peak(count):
        source = write_pictures(tmp_path / str(count), count)
        settings = folder_of(source, size=128, fit="crop", shard_mib=1)
        tracemalloc.start()
        try:
            prepare(settings, name="x", output=tmp_path / "out")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    small, large = peak(100), peak(400)
    assert large - small < 300 * 128 * 128 * 3 / 10  # the other 300 pictures have 14 MiB
    assert large < 20 * 2**20
