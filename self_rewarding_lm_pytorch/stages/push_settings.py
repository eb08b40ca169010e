"""The plan's `push_to_hub`: where the last checkpoint goes when the run is done."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema, field_validator

from self_rewarding_lm_pytorch.stages.base import Settings


class PushSettings(Settings):
    """A model on the Hugging Face hub. private: as the repository is made; one that exists stays as it is."""

    repo: str
    private: bool = True  # a model made public by mistake cannot be taken back

    @field_validator("repo")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        from huggingface_hub import utils
        from huggingface_hub.errors import HFValidationError

        try:
            utils.validate_repo_id(name)  # type: ignore[attr-defined]  # its file exports it by no __all__
        except HFValidationError as error:
            raise ValueError(f"it is no name of a model on the hub ({error}); give OWNER/NAME") from None
        return name


def _read(value: Any) -> Any:
    return {"repo": value} if isinstance(value, str) else value


_JSON_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"repo": {"type": "string"}, "private": {"type": "boolean", "default": True}},
            "required": ["repo"],
            "additionalProperties": False,
        },
        {"type": "null"},
    ],
    "default": None,
    "description": "Where the last checkpoint goes when the run is done: OWNER/NAME, or {repo, private}.",
}
PushToHub = Annotated[PushSettings | None, BeforeValidator(_read), WithJsonSchema(_JSON_SCHEMA)]
