"""SIGINT and SIGTERM as a question that a loop asks between two steps, so that it stops where its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Inside the context a signal is only noted; `stop_if_asked` raises it. A second signal raises at once."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        # Only the main thread may set handlers; elsewhere (a component run in a thread) signals are not ours to take.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked is not None

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt for SIGINT and SystemExit(143) for SIGTERM, as the shell would report it."""
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked is not None:
            raise SystemExit(128 + self._asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            self.stop_if_asked()
        self._asked = number
