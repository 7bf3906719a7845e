"""The champion of a model in MLflow: moved by one at a time, and each movement written down.

MLflow moves an alias without asking where it was, and forgets. So a movement holds a lock: a registered model of a
reserved name, since of two that create it the server's database refuses one. The history is tags of the registered
model, numbered, each the JSON of a `Movement`.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from uuid import uuid4

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from limner.adapters.mlflow_server import first_line
from limner.errors import LimnerError
from limner.ports import Movement
from limner.promotion import ALIAS, CHALLENGER, UNKNOWN, named

HISTORY = "limner.history."
LOCK, TAKEOVER = ".promoting", ".promoting.takeover"
"""Endings of the reserved names."""
MOVEMENT, TOKEN = "limner.movement", "limner.token"
LONGEST_REASON = 2000
"""MLflow's tables keep 5,000 characters of a registered model's tag."""

WAIT_SECONDS = 20.0
"""How long one waits for another one's movement, which takes about a second."""
LATE_SECONDS = 60.0
"""Who has not begun to move by then does not ..."""
STALE_SECONDS = 600.0
"""... so that long after nobody can be at it, and the lock is that of a process which was killed."""

Plan = Callable[[Sequence[Movement]], Movement | None]
"""Says, given the history up to the present champion, what is to be moved; None: nothing. Raises where it must not."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """The alias `champion` of a registered model, and its history."""

    client: MlflowClient
    name: str

    def history(self) -> tuple[Movement, ...]:
        """All movements up to the present champion, the oldest first: one that nobody wrote down is the last of them.

        Somebody has moved the alias by hand, then, or was killed between moving and writing.
        """
        found = self._model()
        recorded, now = _recorded(found), str(found.aliases.get(ALIAS, ""))
        last = recorded[-1].version if recorded else ""
        if now == last:
            return recorded
        missed = Movement("promotion", now, last, UNKNOWN, utc_now(), "It was moved without Limner: not recorded.")
        return (*recorded, missed)

    def move(self, plan: Plan) -> Movement | None:
        """Do what `plan` says of the history, while nobody else moves this champion; returns what was done.

        Raises LimnerError where somebody else is at it, and where the plan is no longer what it was at first.
        """
        intent = plan(self.history())
        if intent is None:
            return None
        with self._alone(intent) as refuse_late:
            self._catch_up()
            movement = plan(self.history())
            if movement is None:
                return None
            if (movement.version, movement.before) != (intent.version, intent.before):
                raise LimnerError(
                    f"The champion of {self.name} has changed meanwhile: nothing has moved.",
                    fix=f"Look at it and try again: limner models status {self.name}",
                )
            refuse_late()
            self._set(movement)
            with self._explaining(movement):
                self._write(movement)
        return movement

    def _model(self) -> RegisteredModel:
        return self.client.get_registered_model(self.name)

    def _catch_up(self) -> None:
        history, recorded = self.history(), _recorded(self._model())
        if len(history) > len(recorded):
            self._write(history[-1])

    def _set(self, movement: Movement) -> None:
        if not movement.version:
            self.client.delete_registered_model_alias(self.name, ALIAS)
            return
        self.client.set_registered_model_alias(self.name, ALIAS, movement.version)

    def _write(self, movement: Movement) -> None:
        found = self._model()
        number = 1 + max((int(key.removeprefix(HISTORY)) for key in _entries(found)), default=0)
        text = json.dumps(asdict(movement), ensure_ascii=False)
        self.client.set_registered_model_tag(self.name, f"{HISTORY}{number:04d}", text)
        if movement.version and str(found.aliases.get(CHALLENGER, "")) == movement.version:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)
        noted, notes = _notes(movement)
        for key, value in notes.items():
            self.client.set_model_version_tag(self.name, noted, key, value)

    @contextmanager
    def _explaining(self, movement: Movement) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError) as error:
            raise LimnerError(
                f"The champion of {self.name} is {named(movement.version)} now, but this is not written down yet.",
                why=first_line(error),
                fix="Look at the server. The next promotion or rollback writes it down.",
            ) from error

    # -- the lock -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, intent: Movement) -> Iterator[Callable[[], None]]:
        """Inside it nobody else moves this champion. Gives what raises LimnerError where it has become too late to."""
        lock, token = self.name + LOCK, uuid4().hex
        began = self._take(lock, token, intent)

        def refuse_late() -> None:
            if time.monotonic() - began > LATE_SECONDS or not self._holds(lock, token):
                raise LimnerError(
                    f"The registry is too slow to move the champion of {self.name}: nothing has moved.",
                    why=f"Preparing it took more than {LATE_SECONDS:.0f} seconds, or somebody has taken the lock.",
                    fix="Try again.",
                )

        try:
            yield refuse_late
        finally:
            try:
                if self._holds(lock, token):
                    self.client.delete_registered_model(lock)
            except (MlflowException, OSError) as error:
                if not _is(error, "RESOURCE_DOES_NOT_EXIST"):
                    _log.warning("%s stays in the registry for a while: %s", lock, first_line(error))

    def _take(self, lock: str, token: str, intent: Movement) -> float:
        """Create the lock, or wait until it can be created; returns when that began."""
        deadline = time.monotonic() + WAIT_SECONDS
        tags = {TOKEN: token, MOVEMENT: json.dumps(asdict(intent), ensure_ascii=False)}
        about = f"{intent.who} is moving the champion of {self.name} since {intent.when}. It takes a second."
        while True:
            began = time.monotonic()
            try:
                self.client.create_registered_model(lock, tags=tags, description=about)
            except MlflowException as error:
                # The second where it was deleted while MLflow was looking what stood in the way.
                if not _is(error, "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
                    raise
            else:
                return began
            held = self._find(lock)
            if held is None:
                continue
            if held.tags.get(TOKEN) == token:  # the answer got lost, and MLflow's client asked again
                return began
            if time.time() - held.creation_timestamp / 1000 > STALE_SECONDS and self._clear(lock, held):
                continue
            if time.monotonic() > deadline:
                raise self._refusal(lock, held)
            time.sleep(random.uniform(0.1, 0.4))  # noqa: S311 - so that two do not stay in step

    def _clear(self, lock: str, stale: RegisteredModel) -> bool:
        """Delete the lock of a process that was killed, once it is written down what that had done.

        Of several that try, one gets to; whether it is stale is said by the server's clock.
        """
        try:
            made = self.client.create_registered_model(self.name + TAKEOVER)
        except MlflowException as error:
            if _is(error, "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
                return False
            raise
        try:
            held = self._find(lock)
            if held is None or held.tags.get(TOKEN) != stale.tags.get(TOKEN):
                return True
            if made.creation_timestamp - held.creation_timestamp <= STALE_SECONDS * 1000:
                return False
            history, intent = self.history(), _movement(held.tags.get(MOVEMENT, ""))
            unwritten = len(history) > len(_recorded(self._model()))
            if intent and unwritten and (intent.version, intent.before) == (history[-1].version, history[-1].before):
                self._write(intent)
            self.client.delete_registered_model(lock)
        finally:
            self.client.delete_registered_model(self.name + TAKEOVER)
        return True

    def _holds(self, lock: str, token: str) -> bool:
        held = self._find(lock)
        return held is not None and held.tags.get(TOKEN) == token

    def _find(self, name: str) -> RegisteredModel | None:
        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if _is(error, "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise

    def _refusal(self, lock: str, held: RegisteredModel) -> LimnerError:
        intent = _movement(held.tags.get(MOVEMENT, ""))
        doing = f"{intent.who}, with a {intent.kind} to {named(intent.version)}, since {intent.when}" if intent else ""
        return LimnerError(
            f"Somebody else is moving the champion of {self.name}: nothing has moved.",
            why=f"The registry has a lock on it, {lock!r}: {doing or 'it does not say whose'}.",
            fix=f"Try again in a minute. If that process was killed, its lock ends after {STALE_SECONDS / 60:.0f} "
            f"minutes; or delete the registered models {self.name + LOCK!r} and {self.name + TAKEOVER!r} in MLflow.",
        )


def is_lock(name: str) -> bool:
    """Whether this is a reserved name, and no model."""
    return name.endswith((LOCK, TAKEOVER))


def utc_now() -> str:
    """The time as a `Movement` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def shortened(reason: str) -> str:
    """A reason on one line, as long as fits."""
    words = " ".join(reason.split())
    return words if len(words) <= LONGEST_REASON else words[:LONGEST_REASON] + " ..."


def _recorded(model: RegisteredModel) -> tuple[Movement, ...]:
    """What the tags of a registered model tell, the oldest first. A tag that somebody has damaged tells nothing."""
    found = (_movement(model.tags[key]) for key in _entries(model))
    return tuple(movement for movement in found if movement)


def _entries(model: RegisteredModel) -> list[str]:
    keys = [key for key in model.tags if key.startswith(HISTORY) and key.removeprefix(HISTORY).isdecimal()]
    return sorted(keys, key=lambda key: int(key.removeprefix(HISTORY)))


def _notes(movement: Movement) -> tuple[str, dict[str, str]]:
    """What the version that became the champion, or was rolled back, carries of that: its number, and tags."""
    if movement.who == UNKNOWN:
        return "", {}
    how = {"at": movement.when, "by": movement.who, "reason": movement.why}
    if movement.kind == "promotion":
        said, number = {"previous_version": movement.before, **how}, movement.version
    else:
        said, number = {"to_version": movement.version, **how}, movement.before
    return number, {f"{movement.kind}.{key}": value for key, value in said.items()}


def _movement(text: str) -> Movement | None:
    try:
        return Movement(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _is(error: Exception, *codes: str) -> bool:
    return isinstance(error, MlflowException) and error.error_code in codes
