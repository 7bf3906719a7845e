"""A set under an extractor: its moments are those of all its pictures, whatever the batches, and are kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner import set_features
from limner.distribution import FEWEST_IN_GROUPS, GROUPS
from limner.errors import LimnerError
from limner.features import extract
from limner.features.pixels import Pixels
from limner.frechet import Moments
from limner.picture_sets import Reader, ReadOptions, open_pictures
from limner.set_features import features_of_set, with_kept_root
from limner.sources import Refused, tree
from tests.picture_folders import fill, spoil

SMALL = Pixels(side=2)


class Counting:
    """Pixels that count how many pictures they have seen."""

    name, identity, resize = "counting", "2", "area"

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return SMALL(images)


def look(folder, *, extractor=SMALL, options=None, keep=True, cache=None, told=None):
    options = options or ReadOptions(threads=1)
    return features_of_set(
        open_pictures(folder, options),
        extractor,
        options,
        keep_features=keep,
        folder=cache,
        progress=(told if told is not None else []).append,
    )


def all_features(folder):
    options = ReadOptions()
    return torch.cat(
        [
            extract(SMALL, [torch.from_numpy(batch.pixels).permute(0, 3, 1, 2)])
            for batch in Reader(open_pictures(folder, options), options)
        ]
    )


@settings(max_examples=10, deadline=None)
@given(count=st.integers(2, 45), batch=st.integers(1, 20), rows=st.integers(1, 9))
def test_the_groups_together_are_the_whole_set(count, batch, rows, tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("set"), count, size=(4, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(set_features, "_ROWS", rows)
        found = look(folder, options=ReadOptions(batch=batch, threads=1))
    expected = all_features(folder)
    assert found.count == count
    assert len(found.groups) == (GROUPS if count >= FEWEST_IN_GROUPS else 1)
    assert max(group.count for group in found.groups) - min(group.count for group in found.groups) <= 1
    torch.testing.assert_close(found.features, expected, rtol=0, atol=0)
    whole = Moments.of(expected)
    torch.testing.assert_close(found.gaussian(correction=1).mean, whole.mean)
    torch.testing.assert_close(found.gaussian(correction=0).covariance, whole.covariance(correction=0))


def test_a_group_is_drawn_by_chance(tmp_path):
    folder = fill(tmp_path / "set", 40)
    first = look(folder).groups[0]
    assert not torch.allclose(first.mean, Moments.of(all_features(folder)[:4]).mean)
    assert not torch.allclose(first.mean, Moments.of(all_features(folder)[::10]).mean)
    torch.testing.assert_close(look(folder).groups[0].mean, first.mean, rtol=0, atol=0)


@pytest.mark.parametrize("count", [30, 150])
def test_a_second_time_runs_no_network_and_gives_the_same(tmp_path, count):
    folder, extractor = fill(tmp_path / "set", count, size=(4, 4)), Counting()
    first = look(folder, extractor=extractor, cache=tmp_path / "cache")
    second = look(folder, extractor=extractor, cache=tmp_path / "cache")
    assert extractor.seen == count
    assert torch.equal(first.features, second.features)
    for one, other in zip(first.groups, second.groups, strict=True):
        assert one.count == other.count
        assert torch.equal(one.held, other.held)
        assert torch.equal(one.mean, other.mean)
    look(folder, extractor=extractor)
    assert extractor.seen == 2 * count, "without the folder nothing is kept"


def test_what_matters_is_seen_again(tmp_path):
    folder, extractor = fill(tmp_path / "set", 30), Counting()

    def seen_more(**options):
        before = extractor.seen
        look(folder, extractor=extractor, cache=tmp_path / "cache", keep=False, options=ReadOptions(**options))
        return extractor.seen - before

    assert seen_more() == 30
    assert seen_more(batch=7, threads=3, mixed_sizes=True, skip_damaged=True) == 0
    assert seen_more(count=25) == 25
    extractor.identity = "other weights"
    assert seen_more() == 30
    extractor.resize = "other"
    assert seen_more() == 30
    fill(folder, 1, seed=9)
    assert seen_more() == 30


def test_features_that_are_asked_for_later_are_found_then(tmp_path):
    folder, extractor = fill(tmp_path / "set", 30), Counting()
    assert look(folder, extractor=extractor, cache=tmp_path / "cache", keep=False).features is None
    assert len(look(folder, extractor=extractor, cache=tmp_path / "cache").features) == 30
    look(folder, extractor=extractor, cache=tmp_path / "cache")
    assert extractor.seen == 60


def test_damaged_pictures_are_remembered_with_what_is_kept(tmp_path):
    folder, skip = fill(tmp_path / "set", 30), ReadOptions(skip_damaged=True)
    spoil(folder / "0003.png")
    with pytest.raises(LimnerError, match=r"1 of 30 pictures .*\n0003.png \(damaged"):
        look(folder, cache=tmp_path / "cache")
    found = look(folder, cache=tmp_path / "cache", options=skip)
    assert (found.count, list(found.damaged), len(found.features)) == (29, [3], 29)
    torch.testing.assert_close(found.features[3], extract(SMALL, [_only(folder, 4)])[0])
    assert dict(look(folder, cache=tmp_path / "cache", options=skip).damaged) == dict(found.damaged)
    with pytest.raises(LimnerError, match="1 of 30 pictures"):
        look(folder, cache=tmp_path / "cache")


def failing(monkeypatch, error, *, name="0003.png"):
    """From the second time on a file cannot be read: when its header has been."""
    read, times = tree._read, []

    def once(path, **options):
        if path.name == name:
            times.append(path)
            if len(times) > 1:
                raise error
        return read(path, **options)

    monkeypatch.setattr(tree, "_read", once)


@pytest.mark.parametrize("error", [Refused("unreadable", "Input/output error"), OSError(5, "Input/output error")])
def test_a_fault_that_passes_is_not_kept_for_good(tmp_path, monkeypatch, error):
    folder, skip, cache = fill(tmp_path / "set", 30), ReadOptions(skip_damaged=True), tmp_path / "cache"
    with monkeypatch.context() as patch:
        failing(patch, error)
        found = look(folder, cache=cache, options=skip)
    assert (found.count, len(found.features)) == (29, 29)
    assert found.damaged[3].startswith("unreadable: ")
    found = look(folder, cache=cache, options=skip)
    assert (found.count, len(found.features), dict(found.damaged)) == (30, 30, {})


def test_a_file_that_changes_while_it_is_read_is_not_missing_for_good(tmp_path):
    folder, options, cache = fill(tmp_path / "set", 30), ReadOptions(skip_damaged=True, threads=1), tmp_path / "cache"
    pictures, intact = open_pictures(folder, options), (folder / "0003.png").read_bytes()
    for content, count in (((folder / "0004.png").read_bytes(), 29), (intact, 30)):
        (folder / "0003.png").write_bytes(content)
        extractor = Counting()
        found = features_of_set(
            pictures, extractor, options, keep_features=False, folder=cache, progress=lambda more: None
        )
        assert (found.count, extractor.seen) == (count, count)


def test_too_little_memory_is_no_fault_of_a_picture(tmp_path, monkeypatch):
    folder = fill(tmp_path / "set", 30)
    failing(monkeypatch, MemoryError("too little"))
    with pytest.raises(MemoryError, match="too little"):
        look(folder, cache=tmp_path / "cache", options=ReadOptions(skip_damaged=True))
    assert not (tmp_path / "cache").exists()


def test_without_a_place_for_a_cache_the_work_is_not_lost(tmp_path):
    folder = fill(tmp_path / "set", 30)
    (tmp_path / "file").touch()
    assert len(look(folder, cache=tmp_path / "file").features) == 30


def _only(folder, number):
    import numpy as np
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(folder / f"{number:04}.png"))).permute(2, 0, 1)[None]


def test_no_network_runs_where_damaged_pictures_are_an_error(tmp_path):
    folder, extractor = fill(tmp_path / "set", 30), Counting()
    spoil(folder / "0000.png")
    with pytest.raises(LimnerError, match="1 of 30"):
        look(folder, extractor=extractor)
    assert extractor.seen == 0


def test_so_few_that_are_left_make_one_group(tmp_path):
    folder = fill(tmp_path / "set", 21)
    for number in range(4):
        spoil(folder / f"{number:04}.png")
    found = look(folder, options=ReadOptions(skip_damaged=True))
    assert (len(found.groups), found.count) == (1, 17)


def test_nothing_that_is_left_is_an_error(tmp_path):
    folder = fill(tmp_path / "set", 3)
    for path in folder.iterdir():
        spoil(path)
    with pytest.raises(LimnerError, match="None of the 3 pictures in"):
        look(folder, options=ReadOptions(skip_damaged=True))


def test_only_so_many_features_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(set_features, "MOST_KEPT", 12)
    found = look(fill(tmp_path / "set", 30))
    assert (len(found.features), found.count) == (12, 30)
    everything = all_features(tmp_path / "set")
    places = [int((everything == row).all(1).nonzero()) for row in found.features]
    assert places == sorted(set(places)) != list(range(12))


def test_progress_counts_every_picture_once(tmp_path):
    folder, told = fill(tmp_path / "set", 23), []
    (folder / "0000.png").write_bytes(b"no picture")
    look(folder, options=ReadOptions(batch=5, skip_damaged=True), told=told)
    assert sum(told) == 23


def test_a_root_is_found_once(tmp_path, monkeypatch):
    gaussian = look(fill(tmp_path / "set", 40)).gaussian(correction=1)
    assert gaussian.rows is None
    kept = with_kept_root(gaussian, {"set": "a"}, folder=tmp_path / "cache")
    torch.testing.assert_close(kept.root @ kept.root, gaussian.covariance)
    again = look(tmp_path / "set").gaussian(correction=1)
    other = with_kept_root(again, {"set": "a"}, folder=tmp_path / "cache")
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert torch.equal(other.root, kept.root)
    assert len(list((tmp_path / "cache").glob("root-*"))) == 1
