"""What every table of the configuration has in common, and errors that bring their own sentence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

WHOLE_SENTENCE = "whole_sentence"  # the type of an error whose message is shown alone, without key and value


class Table(BaseModel):
    """A table of the configuration: frozen, without unknown keys, without NUL characters."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    @field_validator("*")
    @classmethod
    def _has_no_nul(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it has a NUL character")
        return value


def whole_sentence(text: str) -> PydanticCustomError:
    """Return an error for a validator to raise where the user is to read this text and nothing around it."""
    return PydanticCustomError(WHOLE_SENTENCE, "{text}", {"text": text})
