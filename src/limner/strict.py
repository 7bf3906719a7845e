"""The base of all settings: frozen, strict, and an unknown key is an error that names the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from limner.errors import suggest


class Settings(BaseModel):
    """Base of all settings: immutable, no silent conversion, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping):
            for key in raw:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "there is no key {key} here. {known}",
                        {"key": repr(str(key)), "known": suggest(str(key), cls.model_fields)},
                    )
        return raw
