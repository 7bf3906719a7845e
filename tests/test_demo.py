"""The demo's page: its functions, the server behind it, and in a real browser what a visitor meets.

Screenshots of the browser's tests go into the folder LIMNER_SCREENSHOTS, where that is set; else they go with the test.
"""

import asyncio
import gc
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from limner.errors import LimnerError
from limner.inference import open_generator, open_translator
from limner.lineage import read_lineage, write_lineage
from limner.picture_files import PictureFile
from tests.exports import export_generator
from tests.translators import RESNET, export_translator

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'limner[demo]'")

# Of libraries that Gradio stands on: their own use of what is going away.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]

CLASSES = ("bar", "dot", "<ring>")
SCREENSHOTS = os.environ.get("LIMNER_SCREENSHOTS", "")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), "")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return export_generator(tmp_path_factory.mktemp("generator"), classes=CLASSES)


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return export_translator(tmp_path_factory.mktemp("translator"), {"name": "cyclegan", "generator": RESNET})


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """The folder of visitors' pictures."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def demo(uploads, monkeypatch):
    import limner.demo

    # For each of its locks Gradio makes an event loop that it never closes.
    made, make = [], asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: made.append(make()) or made[-1])
    yield limner.demo
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()


@pytest.fixture
def serve(demo):
    from limner.demo_server import published

    return lambda folder: published(demo.build_page(folder), host="127.0.0.1", port=free_port())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def colourful(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


# -- the functions ----------------------------------------------------------------------------------------------------


def test_a_picture_comes_out_as_large_as_it_went_in_and_keeps_its_transparency(demo, translator):
    model = open_translator(translator)
    pixels = colourful(23, 37, 4)
    picture = PictureFile(pixels[..., :3], pixels[..., 3], exif=b"", profile=b"", file_format="png")
    result = demo.stylized(model, picture, strength=1.0)
    assert np.array_equal(result[..., :3], model.stylize(pixels[..., :3]))
    assert np.array_equal(result[..., 3], pixels[..., 3])
    assert np.array_equal(demo.stylized(model, picture, strength=0.0), pixels)


def test_an_upload_is_turned_upright(demo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.jpg", exif=exif)
    picture, note = demo.read_upload(tmp_path / "photo.jpg")
    assert picture.colours.shape == (40, 20, 3)
    assert note == ""


def test_an_upload_that_is_too_much_for_the_page_is_made_smaller_and_the_visitor_told(demo, tmp_path):
    Image.new("L", (4000, 1000)).save(tmp_path / "wide.png")
    picture, note = demo.read_upload(tmp_path / "wide.png")
    height, width = picture.colours.shape[:2]
    assert 0.98 * demo.WORK_MEGAPIXELS * 1e6 < height * width <= demo.WORK_MEGAPIXELS * 1e6
    assert note.startswith(f"made smaller, from 4000 x 1000 to {width} x {height}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no picture", "not a picture"),
        (png(colourful(50, 50))[:-2000], "damaged"),
        (png(np.zeros((8_000, 8_000), np.uint8)), "more than 50 megapixels"),
        (b"", "not a picture"),
    ],
    ids=["text", "cut off", "huge", "empty"],
)
def test_an_upload_that_cannot_be_used_says_why(demo, tmp_path, content, problem):
    (tmp_path / "upload.png").write_bytes(content)
    with pytest.raises(LimnerError, match=problem) as raised:
        demo.read_upload(tmp_path / "upload.png")
    assert raised.value.fix
    assert "--max" not in str(raised.value)  # the visitor of a page has no command line


def test_an_upload_that_was_deleted_meanwhile_says_so(demo, tmp_path):
    with pytest.raises(LimnerError, match="Upload it again"):
        demo.read_upload(tmp_path / "gone.png")


def test_errors_are_told_with_their_three_parts_and_nothing_in_them_is_markup(demo):
    import gradio

    def fail():
        raise LimnerError("It is <b>broken</b>.", why="It was old.", fix="Take another.")

    with pytest.raises(gradio.Error, match="Take another") as raised:
        demo.readable(fail)()
    assert raised.value.message == "<strong>It is &lt;b&gt;broken&lt;/b&gt;.</strong><br>It was old.<br>Take another."


def texts(page):
    return " ".join(str(part["props"].get("value")) for part in page.config["components"] if part["type"] == "html")


def test_the_page_says_what_the_model_is(demo, generator, tmp_path):
    folder = shutil.copytree(generator, tmp_path / "export")
    write_lineage(folder, {**read_lineage(folder), "dataset_licence": "<CC0>"})
    said = texts(demo.build_page(folder))
    assert "<h1>toy</h1>" in said
    assert "16 x 16 pixels, grey" in said
    assert "bar, dot, &lt;ring&gt;" in said
    assert "<dd>&lt;CC0&gt;</dd>" in said
    assert open_generator(folder).digest in said


def test_where_nobody_knows_the_datas_licence_the_page_says_nothing_of_it(demo, generator):
    assert "Licence" not in texts(demo.build_page(generator))


def test_a_model_that_was_tampered_with_gets_no_page(demo, translator, tmp_path):
    folder = shutil.copytree(translator, tmp_path / "export")
    (folder / "back.pt2").write_bytes(b"other")
    with pytest.raises(LimnerError, match="was changed since it was exported"):
        demo.build_page(folder)


def test_a_kind_of_model_without_a_page_is_refused(demo, translator, tmp_path):
    folder = shutil.copytree(translator, tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "task": "unpairedd"}))
    with pytest.raises(LimnerError, match="Did you mean 'unpaired'"):
        demo.build_page(folder)


def test_every_task_has_a_page(demo):
    from typing import get_args

    from limner.tasks import TaskName

    assert set(demo.PAGES) == set(get_args(TaskName))


# -- the server -------------------------------------------------------------------------------------------------------


class Stranger:
    """Somebody who does without the page."""

    def __init__(self, address, function):
        self.address, self.function = address, function

    def post(self, path, wish):
        """The status."""
        content = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
        request = urllib.request.Request(
            f"{self.address}gradio_api/{path}", data=content, headers={"Content-Type": "application/json"}
        )
        return self.status(request)

    def status(self, request):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def ask(self, *data):
        """What the server answers to a wish with these inputs."""
        assert self.post("queue/join", {"data": data, "fn_index": self.function, "session_hash": "someone"}) == 200
        path = f"{self.address}gradio_api/queue/data?session_hash=someone"
        with urllib.request.urlopen(path, timeout=30) as answers:
            for line in answers:
                message = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return message
        raise AssertionError("no answer")


@pytest.fixture
def served(demo):
    """`served(export)`: what asks its page's server, and does without the page itself."""

    @contextmanager
    def start(folder):
        from limner.demo_server import published

        page = demo.build_page(folder)
        function = next(place for place, answer in page.fns.items() if answer.name in ("generate", "stylize"))
        with published(page, host="127.0.0.1", port=free_port()) as address:
            yield Stranger(address, function)

    return start


def test_who_does_without_the_page_meets_the_same_limits_and_leaves_no_trace_in_the_log(served, generator, capfd):
    bad = [
        ((7, 65, -1, False, 1), "64"),
        ((-7, 3, -1, False, 1), "0"),
        ((7, 3, 9, False, 1), "9"),
        ((7, 3, -1, True, 0), "0.1"),
        (("a", 3, -1, False, 1), "cannot use this request"),
        ((None, 3, -1, False, 1), "cannot use this request"),
        ((7, float("nan"), -1, False, 1), "not a number"),
        ((7, 3), "cannot use this request"),
        (
            ({"path": "https://example.com/big.bin", "meta": {"_type": "gradio.FileData"}}, 3, -1, False, 1),
            "no address",
        ),
    ]
    with served(generator) as stranger:
        assert stranger.ask(7, 3, -1, False, 1)["success"]
        capfd.readouterr()
        for wish, words in bad:
            answer = stranger.ask(*wish)
            assert not answer["success"]
            assert words in answer["output"]["error"]
        for body in (b"{", b"[]", {"data": [], "fn_index": 99, "session_hash": "x"}, {"data": 1, "fn_index": 0}):
            assert 400 <= stranger.post("queue/join", body) < 500
        said = capfd.readouterr()
    assert not said.out + said.err


@pytest.fixture
def fetched(monkeypatch):
    """The addresses that Gradio would have fetched."""
    import gradio.processing_utils
    import gradio.routes

    addresses = []

    async def fetch(address, *args, **kwargs):
        addresses.append(address)
        raise OSError("There is no internet here.")

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", fetch)
    monkeypatch.setattr(gradio.routes, "secure_url_stream_response", fetch)
    return addresses


def test_nobody_makes_the_server_read_its_files_or_fetch_an_address(served, translator, tmp_path, fetched):
    (tmp_path / "secret.png").write_bytes(png(colourful(8, 8)))
    addresses = ("https://example.com/big.bin", "http://example.com/big.bin", "HTTPS://example.com/big.bin")

    def picture(path):
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    with served(translator) as stranger:
        assert not stranger.ask(picture(tmp_path / "secret.png"), 1, 0)["success"]
        for address in addresses:
            for wish in ((picture(address), 1, 0), ([picture(address)], 1, 0), (picture("a.png"), picture(address), 0)):
                answer = stranger.ask(*wish)
                assert "no address is fetched" in answer["output"]["error"]
            for path in (f"file={address}", f"file={address.replace(':', '%3A')}", f"proxy={address}"):
                assert stranger.status(f"{stranger.address}gradio_api/{path}") == 404
        for path in ("run/stylize", "api/stylize", "call/stylize", "call/v2/stylize", "component_server"):
            assert stranger.post(path, {"data": [picture(addresses[0]), 1, 0]}) == 404
        assert stranger.status(f"{stranger.address}gradio_api/file={tmp_path / 'secret.png'}") == 403
    assert not fetched


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Gradio leaves open what it tried with
def test_a_port_that_is_taken_is_a_clear_error(demo, generator):
    from limner.demo_server import published

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(LimnerError, match="Name another port"),
            published(demo.build_page(generator), host="127.0.0.1", port=port),
        ):
            pass
    gc.collect()


# -- the command ------------------------------------------------------------------------------------------------------


def test_without_gradio_the_command_says_what_to_install(generator, monkeypatch):
    from limner.cli.demo import app

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "limner.demo", raising=False)
    with pytest.raises(LimnerError, match=re.escape("pip install 'limner[demo]'")):
        typer.main.get_command(app).main([str(generator), "--no-open"], standalone_mode=False)


@pytest.mark.slow
def test_the_command_serves_the_page_until_it_is_ended_and_leaves_nothing(generator, tmp_path):
    port, run = free_port(), "from limner.cli.app import run; from limner.cli.demo import app; run(app, 'limner')"
    process = subprocess.Popen(
        [sys.executable, "-c", run, str(generator), "--port", str(port), "--no-open", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        said = "".join(iter(process.stdout.readline, "}\n")) + "}"
        address = json.loads(said)["address"]
        assert address == f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"toy" in page.read()
        assert list(tmp_path.glob("limner-demo-*/*"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
    assert process.wait(timeout=60) == 143
    assert not list(tmp_path.iterdir())


# -- the browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, serve, tmp_path, monkeypatch):
    """`visit(export)`: a visitor before the page. Afterwards: that neither browser nor server asked anybody else."""
    connected, connect, open_now = [], socket.socket.connect, []
    monkeypatch.setattr(socket.socket, "connect", lambda s, place: connected.append(place) or connect(s, place))

    def start(folder):
        published = serve(folder)
        address = published.__enter__()
        context = chromium.new_context(viewport=DESK, locale="en")
        page, requests = context.new_page(), []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.locator("button.primary").wait_for()
        open_now.append((published, context, address, requests))
        return Visitor(page, Path(SCREENSHOTS or tmp_path))

    yield start
    for published, context, address, requests in open_now:
        context.close()
        published.__exit__(None, None, None)
        assert requests
        assert not [url for url in requests if not url.startswith((address, "data:", f"blob:{address}"))]
    assert {place[0] for place in connected if isinstance(place, tuple)} <= {"127.0.0.1"}


class Visitor:
    def __init__(self, page, screenshots):
        self.page, self.screenshots = page, screenshots

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def changes(self, place, act):
        """Do it, and take the picture that is then shown at a place of the page instead of the one before."""
        before = self.sources(place)[:1]
        act()
        self.page.wait_for_function(
            "([place, before]) => (image => image && image.src !== before)(document.querySelector(place + ' img'))",
            arg=[place, *(before or [""])],
        )
        return self.picture(place)

    def set(self, name, value):
        self.page.get_by_label(f"number input for {name}").fill(str(value))
        self.page.keyboard.press("Tab")

    def picture(self, place):
        """The first one that is shown there."""
        with Image.open(io.BytesIO(self.page.request.get(self.sources(place)[0]).body())) as picture:
            return np.asarray(picture)

    def alternatives(self, place):
        """What a screen reader says of the pictures there."""
        return self.page.evaluate("place => [...document.querySelectorAll(place + ' img')].map(i => i.alt)", place)

    def sources(self, place):
        return self.page.evaluate("place => [...document.querySelectorAll(place + ' img')].map(i => i.src)", place)

    def look(self, name, schemes=("light", "dark")):
        """Screenshots in two sizes; nothing may stand out at the side."""
        self.screenshots.mkdir(parents=True, exist_ok=True)
        for size, word in ((PHONE, "phone"), (DESK, "desk")):
            self.page.set_viewport_size(size)
            for scheme in schemes:
                self.page.emulate_media(color_scheme=scheme)
                self.page.wait_for_timeout(300)  # colours and messages fade in
                assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
                self.page.screenshot(path=self.screenshots / f"demo-{name}-{word}-{scheme}.png", full_page=True)


def test_a_visitor_generates_and_stylizes(visit, generator, translator, tmp_path):
    visitor = visit(generator)
    visitor.set("Seed", 7)
    painted = visitor.changes(".pictures", lambda: visitor.press("Generate"))
    assert np.array_equal(painted, open_generator(generator).generate(1, seed=7)[0, ..., 0])
    words = [f"seed 7, picture {place}, class {CLASSES[place % 3]}" for place in range(16)]
    assert visitor.alternatives(".pictures .thumbnail-item") == words

    visitor, pixels = visit(translator), colourful(23, 37)
    (tmp_path / "mine.png").write_bytes(png(pixels))
    result = visitor.changes(".after", lambda: visitor.page.set_input_files("input[type=file]", tmp_path / "mine.png"))
    assert np.array_equal(result, open_translator(translator).stylize(pixels))
    assert visitor.alternatives(".before") == ["Your picture"]
    assert visitor.alternatives(".after") == ["Your picture in the style of toy"]


@pytest.mark.slow
def test_a_visitor_generates_by_seed_truncation_and_class(visit, generator):
    visitor, model = visit(generator), open_generator(generator)
    truncation = visitor.page.get_by_label("Truncation", exact=True)

    def first_picture(seed, **options):
        return model.generate(1, seed=seed, **options)[0, ..., 0]

    def generate():
        visitor.press("Generate")

    visitor.page.locator(".pictures img").first.wait_for()
    assert np.array_equal(visitor.picture(".pictures"), first_picture(0))
    seen = []
    for seed in (7, 8, 7):
        visitor.set("Seed", seed)
        seen.append(visitor.changes(".pictures", generate))
        assert np.array_equal(seen[-1], first_picture(seed))
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])

    assert np.array_equal(visitor.changes(".pictures", truncation.check), first_picture(7, truncation=1.0))
    visitor.set("Truncated at", 0.3)
    assert np.array_equal(visitor.changes(".pictures", generate), first_picture(7, truncation=0.3))
    visitor.look("generator")
    assert np.array_equal(visitor.changes(".pictures", truncation.uncheck), seen[0])

    visitor.page.get_by_label("Class").click()
    dot = visitor.page.get_by_role("option", name="dot")
    assert np.array_equal(visitor.changes(".pictures", dot.click), first_picture(7, label=1))
    visitor.set("How many", 3)
    generate()
    visitor.page.locator(".pictures .thumbnail-item").nth(3).wait_for(state="detached")
    words = [f"seed 7, picture {place}, class dot" for place in range(3)]
    assert visitor.alternatives(".pictures .thumbnail-item") == words
    visitor.page.locator(".pictures .thumbnail-item").nth(1).click()
    assert words[1] in visitor.alternatives(".pictures .preview")


@pytest.mark.slow
def test_a_visitor_stylizes_a_picture_and_is_told_what_is_wrong_with_another(visit, translator, tmp_path):
    visitor, pixels = visit(translator), colourful(23, 37)
    there, back = open_translator(translator), open_translator(translator, reverse=True)
    (tmp_path / "mine.png").write_bytes(png(pixels))
    (tmp_path / "bad.png").write_bytes(b"no picture")

    def upload(name):
        visitor.page.set_input_files("input[type=file]", tmp_path / name)

    visitor.press("Stylize")
    visitor.page.get_by_text("There is no picture yet.").wait_for()
    visitor.page.get_by_label("Close").first.click()
    assert np.array_equal(visitor.changes(".after", lambda: upload("mine.png")), there.stylize(pixels))
    visitor.look("translator")
    assert np.array_equal(visitor.changes(".after", visitor.page.get_by_label("Out of it").check), back.stylize(pixels))
    visitor.set("Strength", 0.5)
    half = visitor.changes(".after", lambda: visitor.press("Stylize"))
    assert np.array_equal(half, back.stylize(pixels, strength=0.5))
    with visitor.page.expect_download() as download:
        visitor.page.locator(".after").get_by_label("Download").click()
    assert download.value.suggested_filename.endswith(".png")

    visitor.page.locator(".before").get_by_label("Remove Image").click()
    upload("bad.png")
    visitor.page.get_by_text("This picture cannot be used.").wait_for()
    assert visitor.page.get_by_text("not a picture").is_visible()
    assert visitor.page.get_by_text("Take a PNG, JPEG or WebP file.").is_visible()
    visitor.look("bad-upload", schemes=("light",))


def test_what_visitors_leave_is_deleted_with_the_page(serve, generator, uploads):
    with serve(generator) as address:
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
        request = urllib.request.Request(
            f"{address}gradio_api/upload", data=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        urllib.request.urlopen(request, timeout=30).close()
        assert [path for path in uploads.rglob("a.png") if path.is_file()]
    assert not [path for path in uploads.rglob("a.png") if path.is_file()]
