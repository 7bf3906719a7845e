"""The record of the machine."""

import json
from pathlib import Path

import torch

from benchmarks.machine import describe_machine, processor


def test_the_record_is_json_and_names_processor_and_versions():
    record = json.loads(json.dumps(describe_machine()))
    assert record["processor"]
    assert record["cores"] >= 1
    assert record["threads"] == torch.get_num_threads()
    assert record["torch"] == torch.__version__
    assert isinstance(record["native_bf16"], bool)
    assert record["gpu"] is None


def test_the_record_names_the_commit_where_there_is_a_repository(project, monkeypatch):
    monkeypatch.chdir(project)
    record = describe_machine()
    assert (len(record["git_commit"]) == 40) == (project / ".git").exists()


def test_the_processor_is_the_first_that_linux_lists(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Abacus 3000 @ 1 bead\nprocessor\t: 1\nmodel name\t: Slide Rule\n")
    assert processor(cpuinfo) == "Abacus 3000 @ 1 bead"


def test_a_processor_is_named_where_linux_does_not_say_which(tmp_path: Path):
    assert processor(tmp_path / "absent")
