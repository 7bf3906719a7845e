"""Bodies of requests and answers: JSON, as MLflow's scoring server has it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, get_args

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from limner.errors import LimnerError
from limner.scoring import DEFAULTS, Limits, Model, Order, Output, read_order, write_answer

PART = 2**16
"""Bytes of an answer that are handed over at once; the rest waits here, and is counted."""


def read_request(
    body: bytes, model: Model, limits: Limits, *, reserve: Callable[[int], None] = lambda _: None
) -> Order:
    """What a body asks for, as `read_order` does. Raises LimnerError."""
    try:
        with _no_collection():
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
    inputs = document.get("inputs", document.get("instances"))
    return read_order(model, inputs, document.get("params"), limits, reserve=reserve)


def write_body(pictures: Sequence[NDArray[Any]], order: Order) -> bytes:
    """{"predictions": [...]}."""
    answer = write_answer([np.ascontiguousarray(picture) for picture in pictures], order.output)
    return orjson.dumps({"predictions": answer}, option=orjson.OPT_SERIALIZE_NUMPY)


@contextmanager
def _no_collection() -> Iterator[None]:
    """While a million lists are made, Python would look through all of them for garbage again and again.

    Nothing else runs meanwhile: the parser does not let go of the interpreter.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Answer(Response):
    """Sent part by part, so that what is not yet read is not yet handed over; then what it holds is given back.

    Who has not read it after so many seconds gets no more of it.
    """

    media_type = "application/json"

    def __init__(self, content: bytes, held: ExitStack, *, seconds: float) -> None:
        super().__init__(content)
        self._held, self._seconds = held, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it; `send` waits while the client does not read."""
        with self._held, suppress(TimeoutError):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            content = memoryview(self.body)
            async with asyncio.timeout(self._seconds):
                for start in range(0, len(content), PART):
                    more = start + PART < len(content)
                    part = bytes(content[start : start + PART])
                    await send({"type": "http.response.body", "body": part, "more_body": more})


def request_schema() -> dict[str, Any]:
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
