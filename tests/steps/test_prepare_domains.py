"""Prepare datasets of two domains: pairs stay pairs and on one side of the split, strangers and mistakes are told."""

import json
import tarfile
import tracemalloc
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from limner.errors import LimnerError
from limner.packing import PackedDataset
from limner.settings import DatasetSettings
from limner.steps.domain_packer import DomainPacker
from limner.steps.prepare import prepare


def described(source, *, size=16, channels=3, validation=0.25, fit="none", **image):
    image = {"size": size, "channels": channels, "fit": fit} | image
    return DatasetSettings.model_validate({"source": source, "image": image, "validation": validation})


def two(kind, source, target, **more):
    sides = {
        side: one if isinstance(one, dict) else {"kind": "folder", "path": str(one)}
        for side, one in (("source", source), ("target", target))
    }
    return described({"kind": kind} | sides, **more)


def paired(source, target, **more):
    return two("paired", source, target, **more)


def picture(seed, *, side=16):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def partner(pixels):
    """What a target is of its source."""
    return 255 - pixels


def write(folder, name, pixels, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_pairs(place, count, *, first=0):
    """Partners of different file types, without loss."""
    for number in range(first, first + count):
        write(place / "photo", f"{number:03d}.png", picture(number))
        write(place / "drawing", f"{number:03d}.bmp", partner(picture(number)))
    return place / "photo", place / "drawing"


def run(settings, tmp_path, name="out"):
    return prepare(settings, name="x", output=tmp_path / name)


def pixels(output, split, domain):
    part = PackedDataset(output, verify=True).split(split, domain)
    return part.pixels(np.arange(part.count))


def both_sides(output):
    """All pairs, after making sure that they are some."""
    pairs = []
    for split in ("train", "validation"):
        source, target = (pixels(output, split, domain) for domain in ("source", "target"))
        assert np.array_equal(target, partner(source))
        pairs += [one.tobytes() for one in source]
    return pairs


def rejected(output):
    rows = [json.loads(line) for line in (output / "rejected.jsonl").read_text("utf-8").splitlines()]
    return {(row["domain"], row["name"]): (row["reason"], row["detail"]) for row in rows}


def contents(output):
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != "lineage.json"
    }


# -- two folders, matched by name -------------------------------------------------------------------------------------


def test_partners_are_matched_by_name_and_stay_together_in_both_splits(tmp_path):
    result = run(paired(*write_pairs(tmp_path, 40)), tmp_path)
    assert sorted(both_sides(tmp_path / "out")) == sorted(picture(n).tobytes() for n in range(40))
    assert result.counts["source/train"] == result.counts["target/train"]
    assert result.counts["source/validation"] == result.counts["target/validation"] > 3
    assert result.rejected == 0
    dataset = PackedDataset(tmp_path / "out")
    assert (dataset.task, dataset.domains) == ("paired", ("source", "target"))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(("tmp", "."))]


def test_the_same_pairs_give_the_same_bytes_whatever_order_an_archive_has(tmp_path):
    photo, drawing = write_pairs(tmp_path, 12)
    files = sorted(drawing.iterdir())
    with tarfile.open(tmp_path / "backwards.tar.gz", "w:gz") as packed:
        for path in reversed(files):
            packed.add(path, f"all/drawings/{path.name}")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for path in sorted(photo.iterdir()):
            packed.write(path, path.name)
    shards = []
    for number, (one, other) in enumerate(
        [(photo, drawing), (photo, tmp_path / "backwards.tar.gz"), (tmp_path / "photos.zip", drawing)]
    ):
        run(paired(one, other), tmp_path, f"out{number}")
        assert len(both_sides(tmp_path / f"out{number}")) == 12
        shards.append({name: data for name, data in contents(tmp_path / f"out{number}").items() if "raw" in name})
    assert shards[0] == shards[1] == shards[2]
    again = run(paired(photo, drawing), tmp_path, "again")
    assert again.digest == run(paired(photo, drawing), tmp_path, "again").digest


def test_the_split_follows_from_the_source_alone(tmp_path):
    photo, drawing = write_pairs(tmp_path, 40)
    run(paired(photo, drawing), tmp_path, "before")
    for number in range(40):
        write(drawing, f"{number:03d}.bmp", picture(1000 + number))
    run(paired(photo, drawing), tmp_path, "after")
    before, after = (pixels(tmp_path / name, "validation", "source") for name in ("before", "after"))
    assert np.array_equal(before, after)


def test_what_has_no_partner_is_set_aside_and_counted_on_its_own_side(tmp_path):
    photo, drawing = write_pairs(tmp_path, 6)
    write(photo, "lonely.png", picture(100))
    write(drawing, "deep/000.png", picture(101))
    write(drawing, "Lonely.png", picture(102))
    result = run(paired(photo, drawing), tmp_path)
    assert len(both_sides(tmp_path / "out")) == 6
    assert rejected(tmp_path / "out") == {
        ("source", "lonely.png"): ("no partner", "no picture of the set 'target' is called lonely"),
        ("target", "deep/000.png"): ("no partner", "no picture of the set 'source' is called deep/000"),
        ("target", "Lonely.png"): ("no partner", "no picture of the set 'source' is called Lonely"),
    }
    assert result.rejected == 3
    domains = PackedDataset(tmp_path / "out").manifest.domains
    assert [domains[side].rejected for side in ("source", "target")] == [{"no partner": 1}, {"no partner": 2}]


def test_a_picture_that_is_refused_takes_its_partner_with_it(tmp_path):
    photo, drawing = write_pairs(tmp_path, 6)
    (photo / "000.png").write_bytes(b"no")
    (drawing / "001.bmp").write_bytes((drawing / "001.bmp").read_bytes()[:300])
    (drawing / "002.bmp").unlink()
    (drawing / "002.bmp").symlink_to("/proc/self/mem")  # nobody can read its first byte, not even root
    (photo / ".DS_Store").write_text("")
    run(paired(photo, drawing), tmp_path)
    assert len(both_sides(tmp_path / "out")) == 3
    found = rejected(tmp_path / "out")
    assert {key: reason for key, (reason, _) in found.items()} == {
        ("source", ".*"): "hidden",
        ("source", "000.png"): "not a picture",
        ("target", "000.bmp"): "no partner",
        ("source", "001.png"): "no partner",
        ("target", "001.bmp"): "damaged",
        ("source", "002.png"): "no partner",
        ("target", "002.bmp"): "unreadable",
    }
    assert found["target", "000.bmp"][1] == "000.png was set aside: not a picture"


def test_a_name_that_stands_for_two_pictures_is_not_guessed_at(tmp_path):
    photo, drawing = write_pairs(tmp_path, 4)
    write(photo, "001.bmp", picture(50))
    run(paired(photo, drawing), tmp_path)
    assert len(both_sides(tmp_path / "out")) == 3
    detail = "001.bmp and 001.png have the same name, but for the extension"
    names = [("source", "001.bmp"), ("source", "001.png"), ("target", "001.bmp")]
    assert rejected(tmp_path / "out") == dict.fromkeys(names, ("ambiguous name", detail))


def test_only_a_pair_that_comes_twice_is_a_duplicate(tmp_path):
    photo, drawing = write_pairs(tmp_path, 4)
    write(photo, "again.png", picture(2))
    write(drawing, "again.png", partner(picture(2)))
    write(photo, "other.png", picture(2))
    write(drawing, "other.png", picture(60))
    result = run(paired(photo, drawing), tmp_path)
    assert sum(result.counts.values()) == 2 * 5
    assert rejected(tmp_path / "out") == {
        ("source", "again.png"): ("duplicate", "the same pixels as 002.png, and so its partner"),
        ("target", "again.png"): ("duplicate", "the same pixels as 002.bmp, and so its partner"),
    }


def test_pairs_with_one_source_are_on_one_side_of_the_split(tmp_path):
    photo, drawing = write_pairs(tmp_path, 30)
    for number in range(30):
        write(photo, f"b{number:03d}.png", picture(number))
        write(drawing, f"b{number:03d}.png", picture(500 + number))
    run(paired(photo, drawing), tmp_path)
    train, validation = ({p.tobytes() for p in pixels(tmp_path / "out", s, "source")} for s in ("train", "validation"))
    assert validation
    assert not train & validation


def test_accents_are_matched_however_the_system_spells_them(tmp_path):
    photo, drawing = write_pairs(tmp_path, 2)
    write(photo, unicodedata.normalize("NFC", "café.png"), picture(9))
    write(drawing, unicodedata.normalize("NFD", "café.png"), partner(picture(9)))
    assert run(paired(photo, drawing), tmp_path).rejected == 0
    assert len(both_sides(tmp_path / "out")) == 3


def test_of_several_folders_the_first_goes_with_the_first(tmp_path):
    sides = [write_pairs(tmp_path / str(number), 3, first=10 * number) for number in range(2)]
    for photo, drawing in sides:
        for path in (*photo.iterdir(), *drawing.iterdir()):
            path.rename(path.with_name(path.name[-5:]))  # the same names in both
    photos, drawings = ([str(side[i]) for side in sides] for i in range(2))
    run(
        paired({"kind": "folder", "path": photos}, {"kind": "folder", "path": drawings}),
        tmp_path,
    )
    assert len(both_sides(tmp_path / "out")) == 6


def test_exif_orientation_is_applied_before_partners_are_compared(tmp_path):
    photo, drawing = write_pairs(tmp_path, 2)
    exif = Image.Exif()
    exif[0x0112] = 3
    write(photo, "000.png", np.ascontiguousarray(picture(0)[::-1, ::-1]), exif=exif)
    run(paired(photo, drawing), tmp_path)
    assert len(both_sides(tmp_path / "out")) == 2
    notes = [PackedDataset(tmp_path / "out").manifest.domains[side].notes for side in ("source", "target")]
    assert notes == [{"EXIF orientation applied": 1}, {}]


def test_labels_of_class_folders_follow_their_pairs(tmp_path):
    for number, name in enumerate(("cat", "dog", "emu")):
        for index in range(6):
            write(tmp_path / "photo" / name, f"{index}.png", picture(10 * number + index))
            write(tmp_path / "drawing" / name, f"{index}.png", partner(picture(10 * number + index)))
    classes = {"kind": "class-folders", "path": str(tmp_path / "photo")}
    run(paired(classes, tmp_path / "drawing"), tmp_path)
    dataset = PackedDataset(tmp_path / "out")
    assert (dataset.shape().classes, dataset.shape().source_classes) == (0, 3)
    assert len(both_sides(tmp_path / "out")) == 18
    truth = {picture(10 * n + index).tobytes(): n for n in range(3) for index in range(6)}
    train = dataset.split("train", "source")
    assert set(train.labels) == {0, 1, 2}, "each class is trained on"
    assert [truth[p.tobytes()] for p in train.pixels(np.arange(train.count))] == train.labels.tolist()


@pytest.mark.parametrize("labelled", ["source", "target"])
def test_the_first_pair_of_each_class_is_trained_on_whichever_side_is_labelled(tmp_path, labelled):
    for number in range(10):
        write(tmp_path / "source", f"{number}/x.png", picture(number))
        write(tmp_path / "target", f"{number}/x.png", partner(picture(number)))
    sides = {side: {"kind": "folder", "path": str(tmp_path / side)} for side in ("source", "target")}
    sides[labelled]["kind"] = "class-folders"
    counts = run(paired(**sides, validation=0.5), tmp_path).counts
    assert counts["source/train"] == 9, "all are the first of their class, and one is spared for validation"


def test_one_pair_alone_is_trained_on(tmp_path):
    result = run(paired(*write_pairs(tmp_path, 1)), tmp_path)
    assert result.counts == {"source/train": 1, "source/validation": 0, "target/train": 1, "target/validation": 0}


@pytest.mark.parametrize(("count", "validation"), [(2, 0.0001), (3, 0.5), (5, 0.0001)])
def test_no_split_of_few_pairs_is_empty(tmp_path, count, validation):
    result = run(paired(*write_pairs(tmp_path, count), validation=validation), tmp_path)
    assert min(result.counts.values()) >= 1
    assert len(both_sides(tmp_path / "out")) == count


# -- side by side -----------------------------------------------------------------------------------------------------


def write_side_by_side(folder, count):
    for number in range(count):
        write(folder, f"{number}.png", np.concatenate([picture(number), partner(picture(number))], axis=1))
    return folder


@pytest.mark.parametrize("source_on", ["left", "right"])
def test_a_file_is_cut_in_the_middle(tmp_path, source_on):
    write_side_by_side(tmp_path / "raw", 12)
    result = run(described({"kind": "side-by-side", "path": str(tmp_path / "raw"), "source_on": source_on}), tmp_path)
    sides = [picture(n) for n in range(12)]
    wanted = sides if source_on == "left" else [partner(side) for side in sides]
    assert sorted(both_sides(tmp_path / "out")) == sorted(side.tobytes() for side in wanted)
    assert result.rejected == 0
    assert PackedDataset(tmp_path / "out").task == "paired"


def test_the_halves_in_an_archive_are_pairs_too(tmp_path):
    write_side_by_side(tmp_path / "raw", 5)
    with tarfile.open(tmp_path / "raw.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "raw", "facades")
    run(described({"kind": "side-by-side", "path": str(tmp_path / "raw.tar.gz")}), tmp_path)
    assert len(both_sides(tmp_path / "out")) == 5


def test_what_cannot_be_halved_is_set_aside_and_other_files_are_listed_once(tmp_path):
    write_side_by_side(tmp_path / "raw", 3)
    write(tmp_path / "raw", "odd.png", np.zeros((16, 33, 3), np.uint8))
    write(tmp_path / "raw", "narrow.png", np.zeros((16, 14, 3), np.uint8))
    (tmp_path / "raw" / "broken.png").write_bytes(b"no")
    (tmp_path / "raw" / "notes.txt").write_text("about")
    run(described({"kind": "side-by-side", "path": str(tmp_path / "raw")}, min_side=8), tmp_path)
    found = {key: reason for key, (reason, _) in rejected(tmp_path / "out").items()}
    assert found == {
        ("source", "*.txt"): "other file type",
        **{(side, "odd.png"): "odd width" for side in ("source", "target")},
        **{(side, "narrow.png"): "too small" for side in ("source", "target")},
        **{(side, "broken.png"): "not a picture" for side in ("source", "target")},
    }
    assert "the halves of 14x16 are 7x16, min_side is 8" in rejected(tmp_path / "out")["source", "narrow.png"]
    assert len(both_sides(tmp_path / "out")) == 3


# -- printed digits ---------------------------------------------------------------------------------------------------


def digits(*fonts, count=60, **more):
    return {"kind": "printed-digits", "count": count, "fonts": list(fonts)} | more


def test_one_font_and_another_are_true_pairs(tmp_path):
    settings = paired(digits("DejaVuSans"), digits("DejaVuSerif"), size=28, channels=1)
    result = run(settings, tmp_path)
    assert result.rejected == 0
    dataset = PackedDataset(tmp_path / "out")
    source, target = (dataset.split("train", side) for side in ("source", "target"))
    assert np.array_equal(source.labels, target.labels)
    one, other = (side.pixels(np.arange(side.count)).astype(float) for side in (source, target))
    own, next_of_class = np.abs(one - other).mean(), np.abs(one - np.roll(other, 10, axis=0)).mean()
    assert 0 < own < 0.7 * next_of_class


@pytest.mark.parametrize("side", ["source", "target"])
def test_pairs_with_a_held_out_font_on_either_side_are_the_validation_split(tmp_path, side):
    plain, with_held_out = digits("cmr10"), digits("DejaVuSans", held_out_fonts=["STIXGeneral"])
    sides = (with_held_out, plain) if side == "source" else (plain, with_held_out)
    run(paired(*sides, size=28, channels=1), tmp_path)
    domain = PackedDataset(tmp_path / "out")
    only = run(described(digits("DejaVuSans", held_out_fonts=["STIXGeneral"]), size=28, channels=1), tmp_path, "only")
    assert only.counts["pictures/validation"] == domain.split("validation", side).count > 10
    held_out = {p.tobytes() for p in pixels(tmp_path / "out", "validation", side)}
    assert held_out == {p.tobytes() for p in pixels(tmp_path / "only", "validation", "pictures")}


def test_without_a_validation_split_held_out_pairs_are_left_out_and_noted(tmp_path):
    sides = digits("DejaVuSans", count=200, held_out_fonts=["STIXGeneral"]), digits("cmr10", count=200)
    counts = run(paired(*sides, size=28, channels=1, validation=0), tmp_path).counts
    notes = [record.notes for record in PackedDataset(tmp_path / "out").manifest.domains.values()]
    assert counts["source/validation"] == 0
    assert notes[0] == notes[1]
    assert list(notes[0].values()) == [200 - counts["source/train"]]


def test_a_class_that_is_held_out_as_a_whole_says_so(tmp_path):
    settings = described(digits("DejaVuSans", count=10, held_out_fonts=["STIXGeneral"]), size=28, validation=0)
    with pytest.raises(
        LimnerError, match=r"(?s)No picture of the class .*Set aside: \d held out by the publisher.*Mend"
    ):
        run(settings, tmp_path)


# -- unpaired ---------------------------------------------------------------------------------------------------------


def test_one_picture_a_side_is_trained_on(tmp_path):
    write(tmp_path / "a", "x.png", picture(0))
    write(tmp_path / "b", "y.png", picture(1))
    counts = run(two("unpaired", tmp_path / "a", tmp_path / "b"), tmp_path).counts
    assert counts == {"source/train": 1, "source/validation": 0, "target/train": 1, "target/validation": 0}


@pytest.mark.parametrize("kind", ["unpaired", "paired"])
def test_two_labelled_sides_have_the_same_classes_or_are_refused(tmp_path, kind):
    for side, names in (("a", ("cat", "dog")), ("b", ("cat", "emu"))):
        for name in names:
            write(tmp_path / side / name, "0.png", picture(sum(map(ord, side + name))))
    sides = [{"kind": "class-folders", "path": str(tmp_path / side)} for side in ("a", "b")]
    with pytest.raises(
        LimnerError,
        match=r"different classes\.\nOnly the source has 'dog'\. Only the target has 'emu'\.\nWrite kind: fol",
    ):
        run(two(kind, *sides), tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "b" / "emu").rename(tmp_path / "b" / "dog")
    for other, classes in ((tmp_path / "b", 0), (sides[1], 2)):
        run(two(kind, sides[0], other), tmp_path)
        shape = PackedDataset(tmp_path / "out").shape()
        assert (shape.source_classes, shape.classes) == (2, classes)


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_where_no_name_is_on_both_sides_the_error_shows_some_of_each(tmp_path):
    for number in range(5):
        write(tmp_path / "photo", f"photo_{number}.png", picture(number))
        write(tmp_path / "drawing", f"deep/drawing_{number}.png", picture(10 + number))
    expected = (
        r"(?s)Not one picture of the source has a partner of the same name.*"
        r"source: photo_0, photo_1, photo_2; target: deep/drawing_0, deep/drawing_1, deep/drawing_2\."
        r".*kind: unpaired"
    )
    with pytest.raises(LimnerError, match=expected):
        run(paired(tmp_path / "photo", tmp_path / "drawing"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawing", "photo"]


def test_where_every_pair_has_a_bad_half_the_error_says_so(tmp_path):
    photo, drawing = write_pairs(tmp_path, 2)
    (photo / "000.png").write_bytes(b"no")
    (drawing / "001.bmp").write_bytes(b"no")
    with pytest.raises(LimnerError, match=r"(?s)set 'source' can be used.*1 no partner, 1 not a picture.*001.bmp was"):
        run(paired(photo, drawing), tmp_path)


@pytest.mark.parametrize("kind", ["unpaired", "paired"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_missing_or_empty_side_is_named(tmp_path, kind, side):
    photo, _ = write_pairs(tmp_path, 2)
    (tmp_path / "empty").mkdir()
    for bad, message in (("nowhere", "There is no folder or archive .*nowhere"), ("empty", "no picture in .*empty")):
        sides = {"source": photo, "target": photo, side: tmp_path / bad}
        with pytest.raises(LimnerError, match=message):
            run(two(kind, sides["source"], sides["target"]), tmp_path)
    with pytest.raises(LimnerError, match=r"There is no folder or archive .*nowhere"):
        run(described({"kind": "side-by-side", "path": str(tmp_path / "nowhere")}), tmp_path)


@pytest.mark.parametrize("kind", ["unpaired", "paired"])
def test_pictures_cannot_be_source_and_target_at_once(tmp_path, kind):
    photo, _ = write_pairs(tmp_path, 2)
    (tmp_path / "link").symlink_to(photo)
    for source, target in ((photo, photo), (photo, tmp_path / "link"), (tmp_path, photo), (photo, tmp_path)):
        with pytest.raises(LimnerError, match="they have pictures in common"):
            run(two(kind, source, target), tmp_path.with_name("elsewhere"))


def test_an_archive_inside_the_other_folder_is_no_part_of_it(tmp_path):
    photo, drawing = write_pairs(tmp_path, 2)
    with tarfile.open(photo / "drawing.tar", "w") as packed:
        packed.add(drawing, "drawing")
    run(paired(photo, photo / "drawing.tar"), tmp_path)
    assert len(both_sides(tmp_path / "out")) == 2


def test_the_output_may_lie_inside_neither_side(tmp_path):
    photo, drawing = write_pairs(tmp_path, 2)
    for place in (photo, drawing):
        with pytest.raises(LimnerError, match="lie one inside the other"):
            run(paired(photo, drawing), place)


def test_an_interruption_leaves_no_half_output(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DomainPacker, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(paired(*write_pairs(tmp_path, 20)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawing", "photo"]


# -- cost -------------------------------------------------------------------------------------------------------------


def test_the_memory_it_takes_does_not_grow_with_the_pictures(tmp_path):
    def peak(count):
        sides = write_pairs(tmp_path / str(count), count)
        tracemalloc.start()
        try:
            run(paired(*sides, size=128, fit="crop"), tmp_path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    small, large = peak(50), peak(200)
    assert large - small < 2 * 150 * 128 * 128 * 3 / 10  # the other 150 pairs have 14 MiB
