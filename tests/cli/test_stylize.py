"""limner stylize: any picture in, its own size out; sources are never touched, bad ones never stop the others."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path

import boto3
import numpy as np
import pytest
import typer
from PIL import Image, ImageCms

from limner.cli.stylize import app as stylize_app
from tests import s3_stand
from tests.translators import export_translator


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return export_translator(tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def grey_model(tmp_path_factory) -> Path:
    return export_translator(tmp_path_factory.mktemp("grey"), channels=1)


@pytest.fixture(scope="module")
def alpha_model(tmp_path_factory) -> Path:
    return export_translator(tmp_path_factory.mktemp("alpha"), channels=4)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sea").mkdir(parents=True)
    for name, size in (("a.png", (40, 30)), ("b.jpg", (40, 30)), ("sea/c.webp", (31, 57))):
        draw(size).save(folder / name)
    return folder


def draw(size=(40, 30), mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# -- what it does -----------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_folder_of_the_same_tree_and_the_sources_stay(say, model, photos, tmp_path):
    before = tree(photos)
    said = say("stylize", photos, "--model", model, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    assert "3 stylized" in said.out
    assert sorted(tree(tmp_path / "out")) == [".limner.json", "a.png", "b.jpg", "sea/c.webp"]
    for name in before:
        with Image.open(photos / name) as source, Image.open(tmp_path / "out" / name) as result:
            assert result.size == source.size
            assert result.format == source.format
            assert not np.array_equal(np.asarray(result), np.asarray(source))
    assert tree(photos) == before


def test_the_pixels_are_the_models(say, model, photos, tmp_path):
    from limner.inference import open_translator

    say("stylize", photos / "a.png", "--model", model, "--out", tmp_path / "out", "--precision", "fp32")
    expected = open_translator(model, precision="fp32").stylize(pixels(photos / "a.png"))
    assert np.abs(pixels(tmp_path / "out" / "a.png").astype(int) - expected).max() <= 1


def test_files_and_globs_are_inputs_too(say, model, photos, tmp_path):
    pattern = f"{photos}/**/*.*"
    said = say("stylize", pattern, "--model", model, "--out", tmp_path / "out", "--json")
    assert said.document["done"] == 3
    assert (tmp_path / "out" / "sea" / "c.webp").is_file()
    said = say("stylize", photos / "a.png", photos / "b.jpg", "--model", model, "--out", tmp_path / "two", "--json")
    assert said.document["done"] == 2
    assert sorted(tree(tmp_path / "two")) == [".limner.json", "a.png", "b.jpg"]


def test_what_is_done_is_skipped_until_something_changes(say, model, photos, tmp_path):
    words = ("stylize", photos, "--model", model, "--out", tmp_path / "out", "--json")
    say(*words)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    assert say(*words).document["skipped"] == 3
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")} == before
    (tmp_path / "out" / "a.png").unlink()
    again = say(*words).document
    assert (again["done"], again["skipped"]) == (1, 2)
    other = say(*words, "--strength", "0.5")
    assert (other.status, other.document["refused"]) == (2, 3)
    assert "--overwrite replaces it" in other.err
    assert say(*words, "--strength", "0.5", "--overwrite").document["done"] == 3
    draw((40, 31)).save(photos / "a.png")
    changed = say(*words, "--strength", "0.5", "--overwrite").document
    assert (changed["done"], changed["skipped"]) == (1, 2)


def test_a_call_that_was_killed_goes_on_where_it_was(say, model, photos, tmp_path, monkeypatch):
    from limner.picture_places import FolderDestination

    written, write = [], FolderDestination.write

    def dying(self, name, content):
        write(self, name, content)
        written.append(name)
        if len(written) >= 2:  # the record and one picture
            raise KeyboardInterrupt

    words = ("stylize", photos, "--model", model, "--out", tmp_path / "out", "--json")
    with monkeypatch.context() as patched:
        patched.setattr(FolderDestination, "write", dying)
        assert say(*words).status == 130
    assert len(tree(tmp_path / "out")) < 4
    assert not [name for name in tree(tmp_path / "out") if Path(name).name.startswith(".limner-")]
    again = say(*words)
    assert again.status == 0, again.err
    assert again.document["done"] + again.document["skipped"] == 3
    assert again.document["skipped"] >= 1


def test_a_file_that_is_not_ours_is_left_alone(say, model, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"precious")
    said = say("stylize", photos, "--model", model, "--out", tmp_path / "out", "--json")
    assert said.status == 2
    assert (said.document["done"], said.document["refused"]) == (2, 1)
    assert (tmp_path / "out" / "a.png").read_bytes() == b"precious"


def test_strength_mixes_source_and_result(say, model, photos, tmp_path):
    found = {}
    for strength in ("0", "0.5", "1"):
        out = tmp_path / strength
        say("stylize", photos / "a.png", "--model", model, "--out", out, "--strength", strength)
        found[strength] = pixels(out / "a.png").astype(float)
    assert np.array_equal(found["0"], pixels(photos / "a.png"))
    assert np.abs(found["0.5"] - (found["0"] + found["1"]) / 2).max() <= 0.5


def test_size_scales_the_short_side_and_keeps_the_aspect(say, model, photos, tmp_path):
    say("stylize", photos / "a.png", "--model", model, "--out", tmp_path / "out", "--size", "60")
    assert pixels(tmp_path / "out" / "a.png").shape == (60, 80, 3)


@pytest.mark.parametrize(
    ("word", "name", "kind"), [("png", "b.png", "PNG"), ("jpeg", "a.jpg", "JPEG"), ("webp", "a.webp", "WEBP")]
)
def test_format_changes_content_and_suffix(say, model, photos, tmp_path, word, name, kind):
    source = photos / ("b.jpg" if word == "png" else "a.png")
    said = say("stylize", source, "--model", model, "--out", tmp_path / "out", "--format", word)
    assert said.status == 0, said.err
    with Image.open(tmp_path / "out" / name) as result:
        assert result.format == kind


def test_standard_input_becomes_standard_output(model, photos, tmp_path, monkeypatch):
    class Stream:
        buffer = io.BytesIO((photos / "a.png").read_bytes())

    class Result:
        buffer = io.BytesIO()

        @staticmethod
        def isatty():
            return False

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Stream)
        patched.setattr(sys, "stdout", Result)
        command = typer.main.get_command(stylize_app)
        command.main(["-", "--model", str(model), "--format", "jpeg"], standalone_mode=False)
    with Image.open(io.BytesIO(Result.buffer.getvalue())) as result:
        assert (result.format, result.size) == ("JPEG", (40, 30))


def test_a_large_picture_is_done_in_tiles_within_the_memory(say, model, tmp_path, monkeypatch):
    draw((700, 500)).save(tmp_path / "large.png")
    passes = []
    from limner.spatial_statistics import TranslatorProgram

    given = TranslatorProgram.given
    monkeypatch.setattr(
        TranslatorProgram,
        "given",
        lambda self, source, statistics: passes.append(source.shape) or given(self, source, statistics),
    )
    out = tmp_path / "out"
    said = say("stylize", tmp_path / "large.png", "--model", model, "--out", out, "--memory", "12MiB")
    assert said.status == 0, said.err
    assert pixels(out / "large.png").shape == (500, 700, 3)
    assert len(passes) > 2


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_orientation_is_applied_and_other_exif_stays(say, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"  # turn right; the maker
    draw((40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    say("stylize", tmp_path / "turned.jpg", "--model", model, "--out", tmp_path / "out", "--strength", "0")
    with Image.open(tmp_path / "out" / "turned.jpg") as result:
        assert result.size == (30, 40)
        assert result.getexif().get(0x0112, 1) == 1
        assert result.getexif()[0x010F] == "Camera"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_colour_profile_stays(say, model, tmp_path, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    draw().save(tmp_path / f"a.{suffix}", icc_profile=profile)
    say("stylize", tmp_path / f"a.{suffix}", "--model", model, "--out", tmp_path / "out")
    with Image.open(tmp_path / "out" / f"a.{suffix}") as result:
        assert result.info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_stays_untouched(say, model, tmp_path, suffix):
    source = draw()
    alpha = Image.fromarray(np.arange(1200, dtype=np.uint32).reshape(30, 40).astype(np.uint8))
    source.putalpha(alpha)
    source.save(tmp_path / f"a.{suffix}", lossless=True)
    said = say("stylize", tmp_path / f"a.{suffix}", "--model", model, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    result = pixels(tmp_path / "out" / f"a.{suffix}")
    assert result.shape == (30, 40, 4)
    assert np.array_equal(result[..., 3], np.asarray(alpha))


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        *(("1", "png", 3), ("L", "png", 3), ("LA", "png", 4), ("P", "png", 3), ("P", "gif", 3), ("RGBA", "png", 4)),
        *(("I;16", "png", 3), ("CMYK", "jpg", 3), ("YCbCr", "jpg", 3), ("RGB", "bmp", 3), ("RGB", "tif", 3)),
    ],
)
def test_every_kind_of_pixel_is_understood(say, model, tmp_path, mode, suffix, channels):
    source = draw(mode="L").convert("I;16") if mode == "I;16" else draw(mode=mode)
    source.save(tmp_path / f"a.{suffix}")
    said = say("stylize", tmp_path / f"a.{suffix}", "--model", model, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    name = f"a.{suffix}" if suffix in ("png", "jpg") else "a.png"
    assert pixels(tmp_path / "out" / name).shape == (30, 40, channels)


def test_sixteen_bits_are_scaled_and_not_clipped(say, model, tmp_path):
    ramp = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    words = ("--model", model, "--out", tmp_path / "out", "--strength", "0", "--json")
    said = say("stylize", tmp_path / "deep.png", *words)
    assert "16 bits became 8" in said.document["notes"][0]
    assert np.abs(pixels(tmp_path / "out" / "deep.png")[..., 0] - ramp / 257).max() <= 0.5


def test_a_grey_model_makes_grey_pictures(say, grey_model, photos, tmp_path):
    say("stylize", photos / "a.png", "--model", grey_model, "--out", tmp_path / "grey")
    assert pixels(tmp_path / "grey" / "a.png").shape == (30, 40)
    say("stylize", photos / "a.png", "--model", grey_model, "--out", tmp_path / "half", "--strength", "0")
    assert np.array_equal(pixels(tmp_path / "half" / "a.png"), pixels(photos / "a.png"))


def test_a_model_with_alpha_makes_its_own(say, alpha_model, photos, tmp_path):
    say("stylize", photos / "a.png", "--model", alpha_model, "--out", tmp_path / "out")
    result = pixels(tmp_path / "out" / "a.png")
    assert result.shape == (30, 40, 4)
    assert result[..., 3].min() < 255


# -- what is refused --------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG that says it has 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    begun = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 1000) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + begun


def test_bad_pictures_are_told_by_name_and_the_others_are_done(say, model, photos, tmp_path):
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("hello")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:900])
    (photos / "bomb.png").write_bytes(bomb())
    Image.fromarray(np.zeros((20, 20), np.float32)).save(photos / "float.tif")
    (photos / "readme.txt").write_text("no picture at all")
    said = say("stylize", photos, "--model", model, "--out", tmp_path / "out", "--json")
    assert said.status == 2
    assert (said.document["done"], said.document["refused"]) == (3, 5)
    for name, reason in (
        ("empty.png", "not a picture"),
        ("text.jpg", "not a picture"),
        ("cut.png", "damaged"),
        ("bomb.png", "too large"),
        ("float.tif", "unknown range"),
    ):
        (line,) = [line for line in said.err.splitlines() if name in line]
        assert line.startswith("Error: ")
        assert reason in line
    assert "--max-megapixels is 100" in said.err
    assert any("*.txt" in note for note in said.document["notes"])
    assert sorted(tree(tmp_path / "out")) == [".limner.json", "a.png", "b.jpg", "sea/c.webp"]


def test_transparency_and_jpeg_do_not_go_together(say, model, tmp_path):
    draw(mode="RGBA").save(tmp_path / "a.png")
    said = say("stylize", tmp_path / "a.png", "--model", model, "--out", tmp_path / "out", "--format", "jpeg")
    assert said.status == 2
    assert "--format png keeps it" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{photos}",), "Name a folder with --out"),
        (("{photos}/nowhere", "--out", "{tmp}/out"), "nowhere"),
        (("{photos}/*.gif", "--out", "{tmp}/out"), "Nothing matches"),
        (("{tmp}/nothing", "--out", "{tmp}/out"), "There is no picture to stylize"),
        (("{photos}", "--out", "{photos}"), "would be sources of the next call"),
        (("{photos}", "--out", "{photos}/styled"), "would be sources of the next call"),
        (("{photos}/a.png", "--out", "{photos}"), "is a source"),
        (("{photos}/a.png", "--out", "{tmp}/link"), "is a source"),
        (("{photos}/a.png", "--out", "{tmp}/linked-file"), "is a source"),
        (("{photos}", "--out", "{photos}/a.png"), "--out"),
        (("{photos}/a.png", "--out", "{photos}/b.jpg"), "is a file"),
        (("{photos}", "--out", "{tmp}/out", "--format", "png", "{photos}/a.png"), "would both become a.png"),
        (("{photos}/a.png", "{tmp}/upper/A.PNG", "--out", "{tmp}/out"), "would both become"),
        (("{photos}", "--out", "{tmp}/out", "--strength", "1.5"), "--strength 1.5 is out of range"),
        (("{photos}", "--out", "{tmp}/out", "--size", "0"), "--size 0 is out of range"),
        (("{photos}", "--out", "{tmp}/out", "--quality", "0"), "--quality 0 is out of range"),
        (("{photos}", "--out", "{tmp}/out", "--memory", "lots"), "Write it as 2GiB"),
        (("{photos}", "--out", "{tmp}/out", "--max-megapixels", "0"), "allows no picture"),
        (("{photos}", "--out", "{tmp}/out", "--reverse"), "knows no way back"),
        (("-", "{photos}", "--out", "{tmp}/out"), "reads one picture from standard input"),
        (("-", "--json"), "reads one picture from standard input"),
        (("ftp://somewhere/photos", "--out", "{tmp}/out"), "not a place in an object store"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(say, model, photos, tmp_path, words, message):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "upper").mkdir()
    shutil.copy(photos / "a.png", tmp_path / "upper" / "A.PNG")
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "linked-file").mkdir()
    (tmp_path / "linked-file" / "a.png").symlink_to(photos / "a.png")
    before = tree(tmp_path)
    said = say("stylize", *(word.format(photos=photos, tmp=tmp_path) for word in words), "--model", model)
    assert said.status == 2, said.err
    assert message in said.err
    assert "Traceback" not in said.err
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_none_is_refused(say, photos, tmp_path):
    said = say("stylize", photos, "--model", tmp_path, "--out", tmp_path / "out")
    assert said.status == 2
    assert "limner export MODEL" in said.err


def test_a_model_that_generates_is_refused_with_the_command_for_it(say, photos, tmp_path, model):
    generator = tmp_path / "generator"
    shutil.copytree(model, generator)
    config = json.loads((generator / "config.json").read_text())
    (generator / "config.json").write_text(json.dumps({**config, "task": "pictures"}))
    said = say("stylize", photos, "--model", generator, "--out", tmp_path / "out")
    assert said.status == 2
    assert f"limner generate --model {generator}" in said.err


def test_too_little_memory_is_told_for_each_picture(say, model, tmp_path):
    draw((800, 800)).save(tmp_path / "a.png")
    said = say("stylize", tmp_path / "a.png", "--model", model, "--out", tmp_path / "out", "--memory", "3MiB")
    assert said.status == 2
    assert "a.png" in said.err
    assert "Allow at least" in said.err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(say, model, photos, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    said = say("stylize", photos, "--model", model, "--out", tmp_path / "out")
    assert said.status == 2
    assert "cannot be written" in said.err


# -- object stores ----------------------------------------------------------------------------------------------------


def test_pictures_come_from_and_go_to_an_object_store(say, model, photos, tmp_path, monkeypatch):
    with s3_stand.server() as address:
        bucket, client = s3_stand.bucket(monkeypatch, address), boto3.Session().client("s3")
        for name, content in tree(photos).items():
            client.put_object(Bucket=bucket, Key=f"photos/{name}", Body=content)
        client.put_object(Bucket=bucket, Key="photos/notes.txt", Body=b"hello")
        words = ("stylize", f"s3://{bucket}/photos", "--model", model, "--out", f"s3://{bucket}/results", "--json")
        said = say(*words)
        assert said.status == 0, said.err
        assert said.document["done"] == 3
        keys = {found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]}
        assert {f"results/{name}" for name in ("a.png", "b.jpg", "sea/c.webp", ".limner.json")} <= keys
        body = client.get_object(Bucket=bucket, Key="results/sea/c.webp")["Body"].read()
        with Image.open(io.BytesIO(body)) as result:
            assert result.size == (31, 57)
        assert say(*words).document["skipped"] == 3
        one = say("stylize", f"s3://{bucket}/photos/a.png", "--model", model, "--out", tmp_path / "one", "--json")
        assert one.document["done"] == 1
        assert sorted(tree(tmp_path / "one")) == [".limner.json", "a.png"]
        for bad in (f"s3://{bucket}/photos", f"s3://{bucket}/photos/styled"):
            inside = say("stylize", f"s3://{bucket}/photos", "--model", model, "--out", bad)
            assert inside.status == 2
            assert "whose pictures are the sources" in inside.err
        nothing = say("stylize", f"s3://{bucket}/nowhere", "--model", model, "--out", tmp_path / "none")
        assert nothing.status == 2
        assert "There is no picture to stylize" in nothing.err
        missing = say("stylize", "s3://no-such-bucket/a", "--model", model, "--out", tmp_path / "none")
        assert missing.status == 2
        assert "Create the bucket" in missing.err


def test_overwrite_never_replaces_an_object_that_is_a_source(say, model, photos, monkeypatch):
    with s3_stand.server() as address:
        bucket, client = s3_stand.bucket(monkeypatch, address), boto3.Session().client("s3")
        content = (photos / "a.png").read_bytes()
        for key in ("photos/a.png", "photos/x/a.png", "photos/x/x/a.png"):
            client.put_object(Bucket=bucket, Key=key, Body=content)
        b = f"s3://{bucket}"
        for word, out, message in (
            (f"{b}/photos/a.png", f"{b}/photos", "is a source"),
            (f"{b}/photos", f"{b}//photos", "whose pictures are the sources"),
            (f"{b}/photos", f"S3://{bucket}/photos", "whose pictures are the sources"),
            (f"{b}/photos/x", f"{b}/photos", "is a source"),
        ):
            said = say("stylize", word, "--model", model, "--out", out, "--overwrite")
            assert (said.status, message in said.err) == (2, True), said.err
        keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]]
        assert keys == ["photos/a.png", "photos/x/a.png", "photos/x/x/a.png"]
        assert {client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys} == {content}


def test_an_object_that_goes_away_does_not_stop_the_others(say, model, photos, tmp_path, monkeypatch):
    from limner import picture_places

    with s3_stand.server() as address:
        bucket, client = s3_stand.bucket(monkeypatch, address), boto3.Session().client("s3")
        for name, content in tree(photos).items():
            client.put_object(Bucket=bucket, Key=f"photos/{name}", Body=content)
        name_results = picture_places.name_results

        def meanwhile(*arguments):
            client.delete_object(Bucket=bucket, Key="photos/a.png")
            return name_results(*arguments)

        monkeypatch.setattr(picture_places, "name_results", meanwhile)
        said = say("stylize", f"s3://{bucket}/photos", "--model", model, "--out", tmp_path / "out", "--json")
        assert said.status == 2
        assert (said.document["done"], said.document["refused"]) == (2, 1)
        assert f"s3://{bucket}/photos/a.png cannot be stylized: unreadable" in said.err
        assert sorted(tree(tmp_path / "out")) == [".limner.json", "b.jpg", "sea/c.webp"]


def test_a_word_that_finds_nothing_is_told_whatever_the_others_find(say, model, photos, tmp_path):
    (tmp_path / "nothing").mkdir()
    said = say("stylize", photos, tmp_path / "nothing", "--model", model, "--out", tmp_path / "out")
    assert said.status == 2
    assert f"There is no picture to stylize in {tmp_path / 'nothing'}" in said.err
    assert not (tmp_path / "out").exists()


def test_a_glob_over_its_own_results_takes_the_sources_alone(say, model, photos):
    words = ("stylize", f"{photos}/**/*.*", "--model", model, "--out", photos / "out", "--json")
    assert say(*words).document["done"] == 3
    again = say(*words)
    assert (again.status, again.document["done"], again.document["skipped"]) == (0, 0, 3)
    assert "3 matches that are results of an earlier call" in again.document["notes"][0]
    assert sorted(tree(photos / "out")) == [".limner.json", "a.png", "b.jpg", "sea/c.webp"]
