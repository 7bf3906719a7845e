"""The command as a process: it says where it is, answers, and ends when it is told to."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from limner.cli.serve import count_cores
from limner.inference import open_model
from tests.exports import export_generator


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return export_generator(tmp_path_factory.mktemp("generator"))


def test_it_serves_until_sigterm_and_answers_what_is_in_flight(export, tmp_path):
    words = ["serve", str(export), "--port", "0", "--json", "--max-count", "8", "--max-wait-ms", "300"]
    process = subprocess.Popen(
        [sys.executable, "-m", "limner", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        said = ""
        while not said.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        address = json.loads(said)["address"]
        with httpx.Client(base_url=address, timeout=60) as client:
            while client.get("/health").status_code != 200:
                time.sleep(0.05)
            assert "Ask for 1 to 8" in client.post("/invocations", json={"params": {"count": 9}}).json()["message"]
            with ThreadPoolExecutor(4) as callers:
                asked = [callers.submit(client.post, "/invocations", json={"params": {"seed": n}}) for n in range(4)]
                while client.get("/metrics").text.count("limner_requests_open 4.0") < 1:
                    time.sleep(0.005)
                process.send_signal(signal.SIGTERM)
                answers = [future.result() for future in asked]
        assert process.wait(30) == 143
    finally:
        process.kill()
        process.communicate()
    expected = open_model(export)
    for seed, answer in enumerate(answers):
        assert answer.status_code == 200
        found = np.array(answer.json()["predictions"])
        assert np.abs(found - expected.generate(1, seed=seed).astype(int)).max() <= 1


def test_cores_are_counted_where_the_system_does_not_say_which_a_process_may_use(monkeypatch):
    allowed = count_cores()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert count_cores() == os.cpu_count() >= allowed


def test_a_folder_without_a_model_is_refused(say, tmp_path):
    said = say("serve", str(tmp_path), "--port", "0")
    assert said.status == 2
    assert "limner export MODEL" in said.err
