"""A model behind HTTP: the requests of MLflow's scoring server, with limits, batches, health and figures."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, get_args

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from limner import __version__
from limner.batching import Batcher, Busy
from limner.errors import LimnerError
from limner.inference import StyleModel
from limner.scoring import DEFAULTS, Limits, Model, Order, Output, fulfil, read_order, write_answer

GRACE_SECONDS = 25
"""For the requests in flight when the server is told to stop; Kubernetes kills after 30."""
SMALL = 2**14
"""Bytes of a request, or of the pictures of an answer, that are read or written at once, without a thread for it."""
WARM_UP_SIDE = 64
PATHS = ("GET /", "POST /invocations", "GET /ping", "GET /health", "GET /version", "GET /metrics", "GET /openapi.json")
CODES = {400: "BAD_REQUEST", 404: "ENDPOINT_NOT_FOUND", 413: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}
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
    """Requests that are in hand at once; and their bodies and pictures take no more than `memory` bytes."""
    memory: int = 2**30


class TooLarge(LimnerError):  # noqa: N818 - it is an answer, not a failure
    """A body of more bytes than a request may have."""


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


@dataclass
class _Room:
    """Bytes that all requests in hand may take, and take."""

    most: int
    taken: int = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Within the block it can be called to take some more, which raises Busy; in the end all is given back."""
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if self.taken + size > self.most:
                raise Busy("The server has too much to do.", why="Its memory is full.", fix="Ask again later.")
            self.taken += size
            mine += size

        try:
            yield take
        finally:
            self.taken -= mine


class ModelServer:
    """Answers requests to one model."""

    def __init__(self, model: Model, options: ServeOptions | None = None) -> None:
        self.model, self.options, self.figures = model, options or ServeOptions(), _Figures()
        self.ready = False
        self._open, self._room = 0, _Room(self.options.memory)
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
        app.post("/invocations", summary="Pictures", openapi_extra=_request_schema())(self._invocations)
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
        yield
        await warming
        await asyncio.to_thread(self._batcher.close)

    def _warm_up(self) -> None:
        """The first pictures take many times longer: libraries are loaded and memory is taken."""
        for count in (1, min(self.options.max_batch, self.options.limits.pictures)):
            fulfil(self.model, [_trial(self.model, count)])
        self.ready = True

    def _compute(self, orders: Sequence[Order]) -> list[list[NDArray[Any]]]:
        self.figures.batch.observe(sum(order.count for order in orders))
        return fulfil(self.model, orders)

    async def _invocations(self, request: Request) -> Response:
        begin, outcome = time.perf_counter(), "failed"
        try:
            response, outcome = await self._answer(request), "ok"
        except TooLarge as error:
            response, outcome = _error(413, error, {"Connection": "close"}), "refused"
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
            self.figures.requests.labels(outcome).inc()
            self.figures.seconds.observe(time.perf_counter() - begin)
        return response

    async def _answer(self, request: Request) -> Response:
        if self._open >= self.options.max_waiting:
            raise Busy("The server has too much to do.", why=f"{self._open} requests are open.", fix="Ask again later.")
        self._open += 1
        self.figures.open.set(self._open)
        try:
            with self._room.share() as take:
                body = await self._read_body(request, take)
                translates = isinstance(self.model, StyleModel)
                read = partial(read_request, body, self.model, self.options.limits)
                order = await asyncio.to_thread(read) if translates or len(body) > SMALL else read()
                take(order.nbytes)
                pictures = await asyncio.wrap_future(self._batcher.submit(order))
                self.figures.pictures.inc(len(pictures))
                write = partial(write_body, pictures, order)
                small = sum(picture.nbytes for picture in pictures) <= SMALL
                content = write() if small else await asyncio.to_thread(write)
                return Response(content, media_type="application/json")
        finally:
            self._open -= 1
            self.figures.open.set(self._open)

    async def _read_body(self, request: Request, take: Callable[[int], None]) -> bytes:
        """Raises TooLarge, after as much again is read and thrown away: who still sends does not listen."""
        most, size, chunks = self.options.limits.bytes, 0, []
        async for chunk in request.stream():
            size += len(chunk)
            if size <= most:
                take(len(chunk))
                chunks.append(chunk)
            elif size > 2 * most:
                break
        if size > most:
            raise TooLarge("The request is too large.", fix=f"It may have {most} bytes.")
        return b"".join(chunks)

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
                "limits": {"pictures": limits.pictures, "pixels": limits.pixels, "bytes": limits.bytes},
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
    """Answer on a socket until SIGTERM or SIGINT; then those in flight, and no others."""
    config = uvicorn.Config(
        server.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS, lifespan="on"
    )
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket; port 0 is any that is free. Raises LimnerError where it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise LimnerError(
            f"{host}:{port} cannot be listened on.", why=str(error), fix="Name another --port or --host."
        ) from error


def read_request(body: bytes, model: Model, limits: Limits) -> Order:
    """What a body asks for. Raises LimnerError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise LimnerError("The request is no JSON.", why=str(error)) from error
    if not isinstance(document, dict):
        raise LimnerError("The request has to be a JSON object.", fix='Such as {"inputs": [], "params": {"count": 4}}.')
    unknown = next((name for name in document if name not in ("inputs", "instances", "params")), None)
    if unknown is not None:
        raise LimnerError(f"A request has no {unknown!r:.100}.", fix='It has "inputs" and "params".')
    if "instances" in document and "inputs" in document:
        raise LimnerError('A request has either "inputs" or "instances", which mean the same.')
    return read_order(model, document.get("inputs", document.get("instances")), document.get("params"), limits)


def write_body(pictures: Sequence[NDArray[Any]], order: Order) -> bytes:
    """{"predictions": [...]}."""
    answer = write_answer([np.ascontiguousarray(picture) for picture in pictures], order.output)
    return orjson.dumps({"predictions": answer}, option=orjson.OPT_SERIALIZE_NUMPY)


def _trial(model: Model, count: int) -> Order:
    """A request that asks for so many pictures."""
    if isinstance(model, StyleModel):
        blank = [[[0] * model.channels] * WARM_UP_SIDE] * WARM_UP_SIDE
        return read_order(model, [blank] * count, None, Limits())
    return read_order(model, [], {"count": count}, Limits())


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


def _request_schema() -> dict[str, Any]:
    """Of POST /invocations, for OpenAPI."""
    kinds = {int: "integer", float: "number", str: "string"}
    params: dict[str, dict[str, Any]] = {
        name: {"type": kinds[type(value)], "default": value} for name, value in DEFAULTS.items()
    }
    params["output"]["enum"] = list(get_args(Output))
    picture = {
        "oneOf": [{"type": "string", "description": "PNG, JPEG or WebP, base64"}, {"type": "array", "items": {}}]
    }
    schema = {
        "type": "object",
        "properties": {
            "inputs": {"type": "array", "items": picture},
            "params": {"type": "object", "properties": params, "additionalProperties": False},
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
