"""Numbers that may change during a run: pure functions of progress = images seen / total images, in [0, 1].

In params.yaml a schedule is a number, or a ramp: `learning_rate: {start: 2e-4, end: 5e-5, share: 0.5}`. A setting
declares one with the type that says which values it may take: `learning_rate: PositiveSchedule = 2e-4`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from limner.strict import Settings


class Ramp(Settings):
    """A value that moves from `start` to `end` and stays there. R3GAN (arXiv:2501.05441) ramps along cosines.

    CycleGAN and CUT hold their learning rate for half of the run: `{start: 2e-4, end: 2e-6, hold: 0.5, shape: linear}`.
    """

    start: float = Field(description="value at the beginning of the run")
    end: float = Field(description="value once `share` of the run is over")
    share: float = Field(1.0, gt=0, le=1, description="share of the run over which the value moves")
    hold: float = Field(0.0, ge=0, lt=1, description="share of the run before it begins to move")
    shape: Literal["cosine", "linear"] = Field("cosine", description="cosine: slow at both ends")

    @model_validator(mode="after")
    def _refuse_hold_after_end(self) -> Ramp:
        if self.hold >= self.share:
            raise PydanticCustomError("hold", "hold has to be below share: it would never move")
        return self


HELD_THEN_DOWN = Ramp(start=2e-4, end=2e-6, hold=0.5, shape="linear")
"""The learning rate of pix2pix, CycleGAN and CUT: held for half of the run, then down to a hundredth (there: to 0)."""


def value_at(schedule: float | Ramp, progress: float) -> float:
    """The value at a progress in [0, 1].

    With t = (progress - hold) / (share - hold), kept in [0, 1], the value is start + (end - start) w, where w = t for a
    linear ramp and w = (1 - cos(pi t)) / 2 for a cosine. Both ends are met exactly, and no value lies outside them.
    """
    if not isinstance(schedule, Ramp):
        return schedule
    t = min(max(progress - schedule.hold, 0.0) / (schedule.share - schedule.hold), 1.0)
    weight = (1 - math.cos(math.pi * t)) / 2 if schedule.shape == "cosine" else t
    value = schedule.start * (1 - weight) + schedule.end * weight
    low, high = sorted((schedule.start, schedule.end))
    return min(max(value, low), high)  # rounding could lead past an end, and so past a bound


_NUMBER = TypeAdapter(Annotated[float, Field(strict=True, allow_inf_nan=False)])
_BOUNDS = {
    "gt": (">", operator.gt, "exclusiveMinimum"),
    "ge": (">=", operator.ge, "minimum"),
    "lt": ("<", operator.lt, "exclusiveMaximum"),
    "le": ("<=", operator.le, "maximum"),
}
"""Argument of `Within` -> its sign, its meaning, its name in a JSON schema."""


@dataclass(frozen=True, kw_only=True)
class Within:
    """Makes pydantic read `float | Ramp` as a schedule whose every value is within bounds: `gt`, `ge`, `lt`, `le`.

    A ramp is monotone, so its two ends are looked at. It reads by itself, rather than as a union, so that a mistake is
    told once, in the words of the form that was written, and at the place where it stands.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic: how a value is read."""
        return core_schema.no_info_plain_validator_function(self._read, json_schema_input_schema=handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Called by pydantic: the bounds, for whoever prints what may stand there."""
        bounds = {_BOUNDS[name][2]: bound for name, bound in vars(self).items() if bound is not None}
        return {**handler(schema), **bounds}

    def _read(self, raw: Any) -> float | Ramp:
        if isinstance(raw, Mapping | Ramp):
            ramp = Ramp.model_validate(raw)
            for end in ("start", "end"):
                self._refuse_outside(getattr(ramp, end), f", but its {end} is {getattr(ramp, end)}")
            return ramp
        number = _NUMBER.validate_python(raw)
        self._refuse_outside(number, "")
        return number

    def _refuse_outside(self, value: float, but: str) -> None:
        for name, (sign, holds, _) in _BOUNDS.items():
            bound: float | None = getattr(self, name)
            if bound is not None and not holds(value, bound):
                text = "every value has to be {sign} {bound}{but}"
                raise PydanticCustomError("outside", text, {"sign": sign, "bound": f"{bound:g}", "but": but})


Schedule = Annotated[float | Ramp, Within()]
"""Any finite number."""
PositiveSchedule = Annotated[float | Ramp, Within(gt=0)]
"""A learning rate."""
NonNegativeSchedule = Annotated[float | Ramp, Within(ge=0)]
"""A penalty's weight, a half-life."""
ShareSchedule = Annotated[float | Ramp, Within(ge=0, lt=1)]
"""A decay: 0 forgets at once, 1 would never move."""
