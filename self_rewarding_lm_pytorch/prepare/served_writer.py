"""A writer of texts that is a served model."""

from __future__ import annotations

from collections.abc import Sequence

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.generation.server import TextRequest, seed_of
from self_rewarding_lm_pytorch.generation.server_client import ServerClient
from self_rewarding_lm_pytorch.prepare.writers import Written, ended


class ServedWriter:
    """A `Writer` over HTTP.

    With endpoint completions a text continues its prompt; with endpoint chat it answers it. A prompt to which
    the server gives no text (it does not fit, was refused or filtered) gets an empty one.
    """

    def __init__(self, client: ServerClient, *, temperature: float, top_p: float | None = None) -> None:
        self._client = client
        self._temperature = temperature
        self._top_p = top_p

    def write(
        self,
        prompts: Sequence[str],
        keys: Sequence[int],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
    ) -> list[Written]:
        """One text for each prompt, in order; see `Writer`. Raises ServerError where the server fails."""
        requests = [
            TextRequest(prompt, (seed_of(key),), max_new_tokens, self._temperature, self._top_p, tuple(stop))
            for prompt, key in zip(prompts, keys, strict=True)
        ]
        # On several processes one asks, since a server would not give all of them the same.
        found = processes.on_main(lambda: self._client.complete(requests))
        return [ended(one.text, one.finish_reason, stop) for (one,) in found]
