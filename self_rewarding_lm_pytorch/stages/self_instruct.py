"""New prompts from seed prompts, for the stages after it. Trains nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PrivateAttr

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.files import is_there, write_json
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.server import ServerSettings
from self_rewarding_lm_pytorch.generation.server_client import ServerClient
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.prepare.served_writer import ServedWriter
from self_rewarding_lm_pytorch.prepare.writers import Writer
from self_rewarding_lm_pytorch.stages.base import (
    Environment,
    Settings,
    StageConfig,
    StageOutcome,
    StageRun,
)
from self_rewarding_lm_pytorch.stages.forms import say_forms
from self_rewarding_lm_pytorch.stages.prompt_settings import (
    PromptSettings,
    PromptSource,
    policy_writer,
    write_made,
)

PROMPTS_FILE = "prompts.jsonl"
"""In the stage's folder: the rows {"prompt": ...} that later stages read."""


class ServedWriterSettings(Settings):
    """A writer behind an OpenAI-compatible server."""

    server: ServerSettings


@dataclass(frozen=True)
class LoadedWriter:
    """A writer, and the positions its prompts and texts must fit in; None: not known here."""

    writer: Writer
    context: int | None


class SelfInstructStage(StageConfig, PromptSettings):
    """Few-shot prompts to the policy as it is then, or to another writer; what is kept goes to prompts.jsonl.

    writer: another model (a folder, a hub name or module:factory), or a served one; default: the policy.
        Self-Rewarding LMs take a fixed chat model for it.
    """

    kind: Literal["self_instruct"] = "self_instruct"
    writer: str | ServedWriterSettings | None = None

    _loaded: LoadedWriter | None = PrivateAttr(default=None)
    _read: PromptSource | None = PrivateAttr(default=None)

    def check(self, env: Environment) -> None:
        super().check(env)
        self._read = self.source(env.base)
        say_forms(env, self.seeds, "prompts")
        loaded = self._load(env)
        recipe = self.recipe(loaded.context, env.generation.shard_size)
        self.check_shots(self._read, recipe, loaded.writer, env.base)
        if isinstance(self.writer, str):
            self._loaded = None  # read again when it is needed, rather than held while other stages train

    def run(self, run: StageRun) -> StageOutcome:
        env, loaded = run.env, self._load(run.env)
        made = self.make(
            loaded.writer,
            self.recipe(loaded.context, env.generation.shard_size),
            self._kept_source(run),
            run.folder / "attempts",
            seed=run.seed,
            made_by=str(self.writer or "the policy"),
            base=env.base,
            reporter=env.reporter,
        )
        folder = run.folder
        write_made(made, folder / PROMPTS_FILE, folder / "yield.json", folder / "contamination.json")
        self._loaded = None
        counts = made.counts
        metrics = {
            "prompts_wanted": float(counts.wanted),
            "prompts_written": float(counts.written),
            "prompts_kept": float(counts.kept),
            "attempts": float(counts.attempts),
            **{f"dropped_{reason}": float(count) for reason, count in counts.dropped.items()},
        }
        return StageOutcome(
            tokens_generated=counts.tokens or 0, generate_seconds=counts.seconds, metrics=metrics
        )

    def _kept_source(self, run: StageRun) -> PromptSource:
        """What the stage began with: a resumed run goes on with it even if the files changed."""
        path: Path = run.folder / "items" / "source.json"
        if not is_there(path):
            write_json(path, vars(self._read or self.source(run.env.base)))
        return PromptSource(**json.loads(path.read_text(encoding="utf-8")))

    def _load(self, env: Environment) -> LoadedWriter:
        if self._loaded is None:
            if isinstance(self.writer, ServedWriterSettings):
                self._loaded = self._served(self.writer.server)
            else:
                self._loaded = self._own(env)
        return self._loaded

    def _served(self, server: ServerSettings) -> LoadedWriter:
        """The server is not asked yet. Raises ConfigError for what it could not do."""
        others = [name for name in ("top_k", "min_p", "filter_fn") if getattr(self, name) is not None]
        if others:
            raise ConfigError(
                f"{others[0]} cannot be asked of the server at {server.url}: the protocol has temperature "
                "and top_p alone; leave it out, or put what this server knows into extra_body"
            )
        server.check()
        client = ServerClient(server)
        return LoadedWriter(ServedWriter(client, temperature=self.temperature, top_p=self.top_p), None)

    def _own(self, env: Environment) -> LoadedWriter:
        policy, codec = env.policy, env.codec
        if isinstance(self.writer, str):
            policy, codec = load_policy(self.writer)
            policy.module.to(env.accelerator.device)
            processes.share_weights(policy.module)
        codec = codec or env.needed_codec(self.name)
        return LoadedWriter(*policy_writer(env, policy, codec, self.sampling()))
