"""A real server on a socket, asked over HTTP."""

import base64
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import orjson
import pytest
import uvicorn
from PIL import Image

from limner import __version__
from limner.adapters.http_server import ModelServer, ServeOptions, listen, serve
from limner.errors import LimnerError
from limner.inference import GenerativeModel, Wish, open_model
from limner.scoring import Limits, Order, order_bytes
from tests.exports import export_generator
from tests.translators import export_translator

LIMITS = Limits(pictures=8, pixels=100_000, bytes=200_000)


@contextmanager
def answering(server):
    """A client of a server that runs in a thread."""
    with listen("127.0.0.1", 0) as listener:
        runner = uvicorn.Server(uvicorn.Config(server.app(), log_level="warning", access_log=False, lifespan="on"))
        thread = threading.Thread(target=runner.run, args=([listener],))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
                deadline = time.monotonic() + 60
                while client.get("/health").status_code != 200:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                yield client
        finally:
            runner.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return open_model(export_generator(tmp_path_factory.mktemp("generator")))


@pytest.fixture(scope="module")
def client(generator):
    with answering(ModelServer(generator, ServeOptions(LIMITS))) as client:
        yield client


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return open_model(export_translator(tmp_path_factory.mktemp("translator")))


@pytest.fixture(scope="module")
def translating(translator):
    with answering(ModelServer(translator, ServeOptions(LIMITS))) as client:
        yield client


def ask(client, inputs=(), **params):
    return client.post("/invocations", json={"inputs": list(inputs), "params": params})


def pixels(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def test_arrays_and_png_files_are_the_pictures_of_the_model(client, generator):
    expected = generator.generate(3, seed=4, label=1)
    answer = ask(client, count=3, seed=4, label=1)
    assert answer.status_code == 200
    assert np.abs(np.array(answer.json()["predictions"]) - expected.astype(int)).max() <= 1
    files = ask(client, count=3, seed=4, label=1, output="png").json()["predictions"]
    assert np.abs(np.stack([pixels(text) for text in files]) - expected.astype(int)).max() <= 1


def test_200_requests_at_once_are_all_answered_rightly_and_the_bad_ones_refused(client, generator):
    before = client.get("/metrics").text

    def one(seed):
        params = {"label": 99} if seed % 10 == 9 else {"label": seed % 3}
        return ask(client, seed=seed, output=("array", "png")[seed % 2], **params)

    with ThreadPoolExecutor(200) as callers:
        answers = list(callers.map(one, range(200)))
    assert [answer.status_code for answer in answers] == [400 if seed % 10 == 9 else 200 for seed in range(200)]
    for seed, answer in enumerate(answers):
        if seed % 10 == 9:
            assert "no class 99" in answer.json()["message"]
            continue
        (value,) = answer.json()["predictions"]
        found = pixels(value) if seed % 2 else np.array(value)
        assert np.abs(found.astype(int) - generator.generate(1, seed=seed, label=seed % 3)[0]).max() <= 1
    after = client.get("/metrics").text
    assert (
        figure(after, 'limner_requests_total{outcome="ok"}') - figure(before, 'limner_requests_total{outcome="ok"}')
        == 180
    )
    assert figure(after, "limner_pictures_total") - figure(before, "limner_pictures_total") == 180
    # Together: fewer batches than pictures.
    assert figure(after, "limner_batch_pictures_count") - figure(before, "limner_batch_pictures_count") < 150


def figure(text, name):
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "no JSON"),
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'{"inputs": [], "params": {"truncation": NaN}}', "The request is no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "has to be a JSON object"),
        (b'{"input": []}', "no 'input'"),
        (b'{"inputs": [], "instances": []}', "either"),
        (b'{"params": {"seeds": 1}}', "Did you mean 'seed'"),
        (b'{"params": {"count": 9}}', "Ask for 1 to 8"),
    ],
)
def test_a_bad_request_is_a_400_with_a_sentence(client, content, said):
    answer = client.post("/invocations", content=content)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert said in answer.json()["message"]


@pytest.mark.parametrize("whole", [True, False], ids=["length told", "in chunks"])
def test_too_large_a_body_is_a_413(client, whole):
    content = b" " * (LIMITS.bytes + 1)
    answer = client.post("/invocations", content=content if whole else iter([content[:150_000], content[150_000:]]))
    assert answer.status_code == 413
    assert f"{LIMITS.bytes} bytes" in answer.json()["message"]
    assert client.post("/invocations", content=b" " * (LIMITS.bytes - 2) + b"{}").status_code == 200


def test_other_paths_and_methods_are_refused_with_what_there_is(client):
    for answer in (client.get("/invocation"), client.get("/docs"), client.get("/invocations"), client.delete("/")):
        assert answer.status_code in (404, 405)
        assert "POST /invocations" in answer.json()["message"]


def test_it_tells_about_itself(client, translating):
    assert client.get("/ping").status_code == 200
    assert client.get("/version").text == __version__
    about = client.get("/")
    assert b"\n" not in about.content
    assert about.json()["POST /invocations"]["params"].keys() == {"seed", "count", "label", "truncation", "output"}
    assert translating.get("/").json()["POST /invocations"]["params"].keys() == {"strength", "output"}
    assert "/invocations" in client.get("/openapi.json").json()["paths"]
    assert "http" not in json.dumps(client.get("/openapi.json").json())


def test_what_it_shows_as_an_example_works(client):
    assert client.post("/invocations", json=client.get("/").json()["POST /invocations"]).status_code == 200


def test_a_translator_takes_files_and_arrays(translating, translator):
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, (height, 20, 3), dtype=np.uint8) for height in (16, 24)]
    buffer = io.BytesIO()
    Image.fromarray(sources[0]).save(buffer, "PNG")
    sent = [base64.b64encode(buffer.getvalue()).decode(), sources[1].tolist()]
    files = ask(translating, sent, strength=0.5, output="png").json()["predictions"]
    arrays = ask(translating, sent, strength=0.5).json()["predictions"]
    for source, text, rows in zip(sources, files, arrays, strict=True):
        expected = translator.stylize(source, strength=0.5).astype(int)
        assert np.abs(pixels(text) - expected).max() <= 1
        assert np.abs(np.array(rows) - expected).max() <= 1
    assert ask(translating, ["x"]).status_code == 400
    assert ask(translating, sent, strength=2).status_code == 400


class Gated:
    """A server whose model waits until it is let go."""

    def __init__(self, model, options):
        self.opened, self.begun = threading.Event(), threading.Event()
        self.server = ModelServer(model, options)
        compute = self.server._batcher._compute

        def wait(orders):
            self.begun.set()
            assert self.opened.wait(30)
            return compute(orders)

        self.server._batcher._compute = wait


def test_a_full_server_says_when_to_come_again(generator):
    gated = Gated(generator, ServeOptions(LIMITS, max_waiting=3))
    with answering(gated.server) as client, ThreadPoolExecutor(3) as callers:
        waiting = [callers.submit(ask, client, seed=seed) for seed in range(3)]
        try:
            while figure(client.get("/metrics").text, "limner_requests_open") < 3:
                time.sleep(0.01)
            answer = ask(client)
            assert client.get("/health").status_code == 200
        finally:
            gated.opened.set()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert [future.result(30).status_code for future in waiting] == [200] * 3
        assert ask(client).status_code == 200


def test_what_takes_more_memory_than_there_is_is_refused_for_good(generator):
    needed = order_bytes(generator, Order(wishes=(Wish(0),) * 2))
    with answering(ModelServer(generator, ServeOptions(LIMITS, memory=needed))) as client:
        for content in (b" " * needed + b"{}", b" " * (needed // 4) + b"{}", b'{"params": {"count": 3}}'):
            answer = client.post("/invocations", content=content)
            assert answer.status_code == 413
            assert "too much memory" in answer.json()["message"]
        assert client.post("/invocations", content=b"{}").status_code == 200


def test_what_others_hold_can_be_had_later(generator):
    needed = order_bytes(generator, Order(wishes=(Wish(0),) * 2)) + 4000  # for the body
    gated = Gated(generator, ServeOptions(LIMITS, memory=needed))
    with answering(gated.server) as client, ThreadPoolExecutor(1) as caller:
        first = caller.submit(ask, client)
        try:
            assert gated.begun.wait(30)
            answer = ask(client, count=2)
        finally:
            gated.opened.set()
        assert answer.status_code == 503
        assert "memory is full" in answer.json()["message"]
        assert first.result(30).status_code == 200
        while gated.server._memory.taken:
            time.sleep(0.01)
        assert ask(client, count=2).status_code == 200


def test_an_answer_is_held_until_it_is_read(generator):
    server = ModelServer(generator, ServeOptions(LIMITS))
    server._batcher._compute = lambda orders: [[np.full((1, 1, 2**22), 255, np.uint8)] for _ in orders]
    with answering(server) as client:
        with client.stream("POST", "/invocations", json={}) as answer:
            parts = answer.iter_bytes(2**16)
            size = len(next(parts))
            time.sleep(0.3)
            assert server._memory.taken > 2**22
            assert server._open == 1
            size += sum(map(len, parts))
            assert size == int(answer.headers["content-length"])
        while server._memory.taken:
            time.sleep(0.01)


@pytest.mark.parametrize("content", [b"[" * 40_000 + b"]" * 40_000, b"[1,1,1]," * 20_000, b"{}," * 60_000])
def test_too_many_values_are_not_parsed(translator, monkeypatch, content):
    monkeypatch.setattr(orjson, "loads", lambda _: pytest.fail("parsed"))
    with answering(ModelServer(translator, ServeOptions(replace(LIMITS, array_pixels=1000)))) as client:
        answer = client.post("/invocations", content=content)
        assert answer.status_code == 413
        assert "PNG files" in answer.json()["message"]


def test_a_body_that_does_not_come_is_given_up(generator):
    server = ModelServer(generator, ServeOptions(LIMITS, body_seconds=0.2))
    with answering(server) as client, socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
        slow.settimeout(20)
        slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = slow.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"1 bytes of it came within 0.2 seconds" in answer
        assert ask(client).status_code == 200
        assert server._memory.taken == 0


@pytest.mark.parametrize("limits", [Limits(), Limits(pictures=3), Limits(pixels=5 * 16 * 16), Limits(pixels=1)])
def test_it_warms_up_with_as_many_pictures_as_may_be_asked_for(generator, translator, monkeypatch, limits):
    painted, paint = [], GenerativeModel.paint
    monkeypatch.setattr(
        GenerativeModel, "paint", lambda self, wishes: painted.append(len(wishes)) or paint(self, wishes)
    )
    for model in (generator, translator):
        server = ModelServer(model, ServeOptions(limits, max_batch=128))
        server._warm_up()
        assert server.failure is None
        assert server.ready
    assert painted == [1, max(1, min(128, limits.pictures, limits.pixels // (16 * 16)))]


def test_a_model_that_fails_at_first_ends_the_server(generator):
    broken = replace(generator, inputs=({"name": "noise", "shape": [3], "dtype": "float32"},))
    with listen("127.0.0.1", 0) as listener, pytest.raises(LimnerError, match="The model toy makes no pictures"):
        serve(ModelServer(broken), listener)


def test_it_is_not_healthy_before_it_is_warm(generator, monkeypatch):
    gate = threading.Event()
    server = ModelServer(generator, ServeOptions(LIMITS))
    warm_up = server._warm_up
    monkeypatch.setattr(server, "_warm_up", lambda: (gate.wait(30), warm_up()))
    seen = []

    def look(address):
        with httpx.Client(base_url=address, timeout=30) as client:
            while not seen:
                try:
                    seen.append((client.get("/ping").status_code, client.get("/health").status_code))
                except httpx.TransportError:
                    time.sleep(0.02)
        gate.set()

    with listen("127.0.0.1", 0) as listener:
        runner = uvicorn.Server(uvicorn.Config(server.app(), log_level="warning", lifespan="on"))
        thread = threading.Thread(target=runner.run, args=([listener],))
        thread.start()
        look(f"http://127.0.0.1:{listener.getsockname()[1]}")
        deadline = time.monotonic() + 30
        while not server.ready and time.monotonic() < deadline:
            time.sleep(0.02)
        runner.should_exit = True
        thread.join(30)
    assert seen == [(200, 503)]
    assert server.ready


def test_requests_in_flight_are_answered_when_it_is_stopped(generator):
    gated = Gated(generator, ServeOptions(LIMITS))
    with ThreadPoolExecutor(4) as callers, listen("127.0.0.1", 0) as listener:
        runner = uvicorn.Server(uvicorn.Config(gated.server.app(), log_level="warning", lifespan="on"))
        thread = threading.Thread(target=runner.run, args=([listener],))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/invocations"
        asked = [callers.submit(httpx.post, address, json={"params": {"seed": n}}, timeout=60) for n in range(4)]
        assert gated.begun.wait(30)
        while gated.server._open < 4:
            time.sleep(0.01)
        runner.should_exit = True
        time.sleep(0.3)
        gated.opened.set()
        assert [future.result(30).status_code for future in asked] == [200] * 4
        thread.join(30)
    assert not thread.is_alive()


def test_a_taken_port_is_an_error_with_a_remedy():
    with listen("127.0.0.1", 0) as listener, pytest.raises(LimnerError, match="cannot be listened on"):
        listen("127.0.0.1", listener.getsockname()[1])
