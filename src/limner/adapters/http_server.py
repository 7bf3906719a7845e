"""A model behind HTTP: the requests of MLflow's scoring server, with limits, batches, health and figures."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from limner import __version__
from limner.adapters.http_messages import Answer, read_request, request_schema, write_body
from limner.adapters.request_memory import Memory, Share, TooLarge, reading_bytes
from limner.batching import Batcher, Busy
from limner.errors import LimnerError
from limner.inference import StyleModel, Wish
from limner.scoring import DEFAULTS, Limits, Model, Order, fulfil, order_bytes

GRACE_SECONDS = 25
"""For the requests in flight when the server is told to stop; Kubernetes kills after 30."""
SMALL, LARGE = 2**14, 2**20
"""Bytes of a request, or of the pictures of an answer: up to SMALL it is read or written at once, without a thread for
it; requests above LARGE are read one at a time, because nothing else runs while one is parsed."""
ANSWER_SECONDS = 120
"""For who asked to read the answer."""
WARM_UP_SIDE = 64
PATHS = ("GET /", "POST /invocations", "GET /ping", "GET /health", "GET /version", "GET /metrics", "GET /openapi.json")
CODES = {
    400: "BAD_REQUEST",
    404: "ENDPOINT_NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}
"""As MLflow's server names them."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """How requests are put together, and what they may be."""

    limits: Limits = field(default_factory=Limits)
    max_batch: int = 16
    """Pictures that are computed at once."""
    max_wait_seconds: float = 0.002
    """How long a picture waits for others."""
    max_waiting: int = 512
    """Requests that are in hand at once, until their answers are sent."""
    memory: int = 2**30
    """Bytes that these take together: body, what is parsed of it, pictures, results and answer, reckoned high. What the
    model works in comes on top: `limner.inference.MEMORY` for a translator."""
    body_seconds: float = 30
    """For a body to come."""


class TooSlow(LimnerError):  # noqa: N818 - it is an answer, not a failure
    """A body that does not come."""


class _Figures:
    """What /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("limner_requests", "Requests by outcome", ["outcome"], registry=self.registry)
        self.pictures = Counter("limner_pictures", "Pictures in answers", registry=self.registry)
        self.open = Gauge("limner_requests_open", "Requests in hand", registry=self.registry)
        self.seconds = Histogram(
            "limner_request_seconds",
            "From a request's head to its answer",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.batch = Histogram(
            "limner_batch_pictures",
            "Pictures computed at once",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )


class ModelServer:
    """Answers requests to one model."""

    def __init__(self, model: Model, options: ServeOptions | None = None) -> None:
        self.model, self.options, self.figures = model, options or ServeOptions(), _Figures()
        self.ready = False
        self.failure: LimnerError | None = None
        self.stop: Callable[[], None] = lambda: None
        """Called when the model fails before it is ready; `failure` says why."""
        self._open, self._memory, self._one_large = 0, Memory(self.options.memory), asyncio.Lock()
        self._batcher: Batcher[Order, list[NDArray[Any]]] = Batcher(
            self._compute,
            size=self.options.max_batch,
            wait_seconds=self.options.max_wait_seconds,
            capacity=self.options.max_waiting,
            weigh=attrgetter("count"),
        )

    def app(self) -> FastAPI:
        """As an ASGI application."""
        # The pages of documentation that FastAPI has ready load their scripts from the internet.
        app = FastAPI(title="Limner", version=__version__, docs_url=None, redoc_url=None, lifespan=self._lifespan)
        app.get("/", summary="How to use it")(self._describe)
        app.post("/invocations", summary="Pictures", openapi_extra=request_schema())(self._invocations)
        app.get("/ping", summary="Whether the process lives")(self._ping)
        app.get("/health", summary="Whether it is ready for requests")(self._health)
        app.get("/version", summary="Limner's version")(self._version)
        app.get("/metrics", summary="Figures for Prometheus")(self._metrics)
        app.add_exception_handler(HTTPException, _refuse_path)
        return app

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        del app
        warming = asyncio.create_task(asyncio.to_thread(self._warm_up))
        try:
            yield
        finally:
            await warming
            await asyncio.to_thread(self._batcher.close)

    def _warm_up(self) -> None:
        """The first pictures take many times longer: libraries are loaded and memory is taken."""
        try:
            for most in (1, self.options.max_batch):
                fulfil(self.model, [_trial(self.model, most, self.options.limits)])
        except Exception as error:  # noqa: BLE001 - whatever it is, no request would be answered
            why = str(error) if isinstance(error, LimnerError) else f"{type(error).__name__}: {error}"
            self.failure = LimnerError(f"The model {self.model.name} makes no pictures.", why=why)
            self.stop()
        else:
            self.ready = True

    def _compute(self, orders: Sequence[Order]) -> list[list[NDArray[Any]]]:
        self.figures.batch.observe(sum(order.count for order in orders))
        return fulfil(self.model, orders)

    async def _invocations(self, request: Request) -> Response:
        begin, outcome, held = time.perf_counter(), "failed", ExitStack()
        response: Response
        try:
            response, outcome = Answer(await self._answer(request, held), held.pop_all(), seconds=ANSWER_SECONDS), "ok"
        except TooLarge as error:
            response, outcome = _error(413, error, {"Connection": "close"}), "refused"
        except TooSlow as error:
            response, outcome = _error(408, error, {"Connection": "close"}), "refused"
        except Busy as error:
            response, outcome = _error(503, error, {"Retry-After": "1"}), "busy"
        except LimnerError as error:
            response, outcome = _error(400, error), "refused"
        except ClientDisconnect:
            response, outcome = Response(status_code=400), "gone"  # which nobody will read
        except Exception as error:  # noqa: BLE001 - one request's trouble; the log has all of it
            _log.exception("A request failed.")
            response = _error(500, LimnerError("The model failed.", why=type(error).__name__))
        finally:
            held.close()
            self.figures.requests.labels(outcome).inc()
            self.figures.seconds.observe(time.perf_counter() - begin)
        return response

    async def _answer(self, request: Request, held: ExitStack) -> bytes:
        """The answer's body; what it takes until it is sent is given back by `held`."""
        held.enter_context(self._in_hand())
        share = held.enter_context(self._memory.share())
        order = await self._read(await self._read_body(request, share), share)
        share.hold(order_bytes(self.model, order))
        pictures = await asyncio.wrap_future(self._batcher.submit(order))
        self.figures.pictures.inc(len(pictures))
        write = partial(write_body, pictures, order)
        content = write() if sum(picture.nbytes for picture in pictures) <= SMALL else await asyncio.to_thread(write)
        share.hold(len(content))
        return content

    @contextmanager
    def _in_hand(self) -> Iterator[None]:
        if self._open >= self.options.max_waiting:
            raise Busy("The server has too much to do.", why=f"{self._open} requests are open.", fix="Ask again later.")
        self._open += 1
        self.figures.open.set(self._open)
        try:
            yield
        finally:
            self._open -= 1
            self.figures.open.set(self._open)

    async def _read_body(self, request: Request, share: Share) -> bytes:
        """Raises TooLarge, after as much again is read and thrown away: who still sends does not listen; or TooSlow."""
        most, size, chunks = self.options.limits.bytes, 0, []
        try:
            async with asyncio.timeout(self.options.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= most:
                        share.take(len(chunk))
                        chunks.append(chunk)
                    elif size > 2 * most:
                        break
        except TimeoutError as error:
            why = f"{size} bytes of it came within {self.options.body_seconds:g} seconds."
            raise TooSlow("The request did not come.", why=why, fix="Send it faster, or less.") from error
        if size > most:
            raise TooLarge("The request is too large.", fix=f"It may have {most} bytes.")
        return b"".join(chunks)

    async def _read(self, body: bytes, share: Share) -> Order:
        async with self._one_large if len(body) > LARGE else nullcontext():
            share.hold(reading_bytes(body, self.options.limits))
            read = partial(read_request, body, self.model, self.options.limits, reserve=share.take)
            # A small file may be a large picture.
            threaded = isinstance(self.model, StyleModel) or len(body) > SMALL
            return await asyncio.to_thread(read) if threaded else read()

    async def _describe(self) -> Response:
        translates = isinstance(self.model, StyleModel)
        inputs: list[str] = ["<a PNG, JPEG or WebP file in base64>"] if translates else []
        foreign = ("seed", "count", "label", "truncation") if translates else ("strength",)
        params = {name: value for name, value in DEFAULTS.items() if name not in foreign}
        limits = self.options.limits
        return _json(
            200,
            {
                "model": self.model.name,
                "digest": self.model.digest,
                "task": self.model.task,
                "POST /invocations": {"inputs": inputs, "params": {**params, "output": "png"}},
                "limits": asdict(limits),
                "paths": PATHS,
            },
        )

    async def _ping(self) -> Response:
        return Response("\n", media_type="application/json")

    async def _health(self) -> Response:
        status = "ready" if self.ready else "warming up"
        return _json(200 if self.ready else 503, {"status": status, "model": self.model.name})

    async def _version(self) -> Response:
        return Response(__version__, media_type="text/plain")

    async def _metrics(self) -> Response:
        return Response(generate_latest(self.figures.registry), media_type=CONTENT_TYPE_LATEST)


def serve(server: ModelServer, listener: socket.socket) -> None:
    """Answer on a socket until SIGTERM or SIGINT; then those in flight, and no others.

    Raises LimnerError where the model fails before it is ready.
    """
    config = uvicorn.Config(
        server.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS, lifespan="on"
    )
    runner = uvicorn.Server(config)
    server.stop = partial(setattr, runner, "should_exit", True)
    runner.run(sockets=[listener])
    if server.failure:
        raise server.failure


def listen(host: str, port: int) -> socket.socket:
    """A socket; port 0 is any that is free. Raises LimnerError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise LimnerError(
            f"{host}:{port} cannot be listened on.", why=str(error), fix="Name another --port or --host."
        ) from error


def _trial(model: Model, most: int, limits: Limits) -> Order:
    """A request for so many pictures, or as many as one may ask for."""
    if isinstance(model, StyleModel):
        height, width = model.padded_size(WARM_UP_SIDE, WARM_UP_SIDE)
    else:
        height, width = model.height, model.width
    count = max(1, min(most, limits.pictures, limits.pixels // (height * width)))
    if isinstance(model, StyleModel):
        return Order(pictures=(np.zeros((WARM_UP_SIDE, WARM_UP_SIDE, model.channels), np.uint8),) * count)
    return Order(wishes=tuple(Wish(0, number) for number in range(count)))


def _error(status: int, error: LimnerError, headers: Mapping[str, str] | None = None) -> Response:
    code = CODES.get(status, "INTERNAL_ERROR")
    return _json(status, {"error_code": code, "message": str(error)}, headers)


async def _refuse_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    problem = LimnerError(
        f"There is no {request.method} {request.url.path} here.", fix=f"There is: {', '.join(PATHS)}."
    )
    code = "ENDPOINT_NOT_FOUND" if status in (404, 405) else "INTERNAL_ERROR"
    return _json(status, {"error_code": code, "message": str(problem)})


def _json(status: int, document: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(document), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )
