"""What all sections of the settings have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# The upper bounds are what gRPC can carry: it counts bytes and milliseconds in 31 bits.
Bytes = Annotated[int, Field(ge=1 << 10, le=1 << 28)]
Memory = Annotated[int, Field(ge=1 << 20, le=1 << 50)]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]
SecondsOrZero = Annotated[float, Field(ge=0, le=1e6)]


class Section(BaseModel):
    """A section: a table of the file. Its values do not change, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
