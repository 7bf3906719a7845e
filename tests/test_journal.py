"""The journal: appended, whole after a crash, rewound to a checkpoint."""

import pytest

from limner.journal import Journal, describe_event, read_journal


def write(journal):
    for number in range(1, 4):
        journal.metrics({"loss/generator": number / 2}, images=number * 100, step=number, seconds=number)


@pytest.fixture
def cut_off(tmp_path):
    """A journal whose last line lost its end in a crash."""
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        write(journal)
    path.write_bytes(path.read_bytes()[:-5])
    return path


def test_what_is_written_can_be_read_at_once(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        write(journal)
        lines = read_journal(tmp_path / "journal.jsonl")
    assert [line["images"] for line in lines] == [100, 200, 300]
    assert lines[0] == {"images": 100, "step": 1, "seconds": 1, "metrics": {"loss/generator": 0.5}}


def test_a_line_that_a_crash_cut_off_is_left_out(cut_off):
    assert [line["images"] for line in read_journal(cut_off)] == [100, 200]


def test_rewinding_drops_what_lies_beyond_the_checkpoint_and_goes_on(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        write(journal)
        journal.rewind(images=200)
        journal.event("resumed", images=200, step=2)
    assert [line.get("event", line["images"]) for line in read_journal(path)] == [100, 200, "resumed"]


def test_rewinding_also_heals_a_line_that_was_cut_off(cut_off):
    with Journal(cut_off) as journal:
        journal.rewind(images=1000)
        journal.event("resumed", images=200, step=2)
    assert [line.get("event", line["images"]) for line in read_journal(cut_off)] == [100, 200, "resumed"]


def test_the_listener_hears_every_line(tmp_path):
    heard = []
    with Journal(tmp_path / "journal.jsonl", listener=heard.append) as journal:
        journal.metrics({"a": 1.0}, images=1, step=1, seconds=0)
        journal.event("stopped", images=1, step=1)
    assert heard == read_journal(tmp_path / "journal.jsonl")


def test_no_journal_is_an_empty_journal(tmp_path):
    assert read_journal(tmp_path / "none.jsonl") == []


def test_an_event_is_described_in_a_line_for_people():
    moment = {"images": 640, "step": 10}
    assert describe_event(moment | {"event": "resumed"}) == "resumed at 640 images"
    assert describe_event(moment | {"event": "warning", "text": "look: this"}) == "warning at 640 images: look: this"
    described = describe_event(moment | {"event": "went back", "times": 1, "reason": "it fell"})
    assert described == "went back at 640 images: times 1, reason it fell"
