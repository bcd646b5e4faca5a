"""What a configuration names and gives options to: a built-in by its name, or a class of one's own by dotted path."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rlloop.config.sections import Section


class TargetEntry(Section):
    """A name alone (a built-in, or a dotted path `package.module:Class`), or a mapping where it takes options."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="what it is called")
    target: str = Field(description="built-in name or package.module:name of a class or function; default: the name")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the target")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given.rsplit(":", 1)[-1], "target": given}
        return {"target": given.get("name"), **given} if isinstance(given, dict) else given

    @model_serializer(mode="wrap")
    def _contract(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.target if self.is_plain else handler(self)

    @property
    def is_plain(self) -> bool:
        return not self.options and self.name == self.target.rsplit(":", 1)[-1]


class StepEntry(TargetEntry):
    """A step of the post-processing, in a configuration; one may come several times."""
