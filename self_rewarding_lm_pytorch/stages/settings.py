"""What everything that a plan holds is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of everything a plan holds: unknown keys are errors, objects are allowed."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
