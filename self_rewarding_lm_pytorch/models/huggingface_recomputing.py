"""transformers' gradient checkpointing for a while: layers are computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def can_recompute(model: Any) -> bool:
    """Whether the model says that it can, and has layers that do."""
    has_layers = any(hasattr(part, "gradient_checkpointing") for part in model.modules())
    return bool(getattr(model, "supports_gradient_checkpointing", False)) and has_layers


@contextmanager
def recomputed_layers(model: Any) -> Iterator[None]:
    """Layers keep their inputs only, in training mode; a model that does so already keeps its own way."""
    if any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
        yield
        return
    is_renamed = hasattr(model, "activation_checkpointing_enable")  # and the former names warn
    name = "activation_checkpointing" if is_renamed else "gradient_checkpointing"
    # Embeddings that require gradients are for re-entrant checkpointing alone; the caller's own hooks stay.
    hooks = {key: value for key, value in vars(model).items() if key.startswith("_require_grads_hook")}
    getattr(model, f"{name}_enable")({"use_reentrant": False})
    model.disable_input_require_grads()
    try:
        yield
    finally:
        getattr(model, f"{name}_disable")()
        vars(model).update(hooks)
