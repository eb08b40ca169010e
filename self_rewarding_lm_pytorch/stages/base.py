"""What a stage is given, and what it gives back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, model_validator

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.alarms import Limit
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.requests import Generator
from self_rewarding_lm_pytorch.generation.split import SplitGenerator
from self_rewarding_lm_pytorch.models.caches import RecomputingCache
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.preferences.shards import Work
from self_rewarding_lm_pytorch.preferences.yields import Yield
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.stages.checked_items import CheckedItems
from self_rewarding_lm_pytorch.stages.generation_settings import GenerationSettings
from self_rewarding_lm_pytorch.stages.settings import Settings
from self_rewarding_lm_pytorch.stages.watch import Watch
from self_rewarding_lm_pytorch.text import Codec
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from self_rewarding_lm_pytorch.training.optimizer import check_optimizer_arguments
from self_rewarding_lm_pytorch.training.parallel import Parallel, Replicated, Sharded
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings, TrainSettings

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator

__all__ = ["Environment", "GenerationSettings", "Settings", "StageConfig", "StageOutcome", "StageRun"]


@dataclass
class Environment:
    """What all stages of a run share."""

    policy: Policy
    codec: Codec | None
    seed: int
    accelerator: Accelerator
    reporter: Reporter
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    base: Path | None = None  # where relative paths of the plan start
    load_initial: Callable[[], Policy] | None = None  # the model as the run began, in memory of its own
    checkpoints: dict[str, Path] = field(default_factory=dict)  # of the run's finished stages, by name
    save_every_seconds: float = 600.0  # of training, between two states that it can be gone on with from
    alarms: Mapping[str, Limit] = field(default_factory=dict)  # those that are on
    is_sharded: bool = False  # whether each process trains a part of the weights
    checked: CheckedItems | None = None  # the items that the check before the run made

    @cached_property
    def parallel(self) -> Parallel:
        """How the processes of the run train the policy."""
        return Sharded(self.policy) if self.is_sharded else Replicated(self.policy)

    def generator(self, policy: Policy | None = None, codec: Codec | None = None) -> Generator:
        """A generator for the policy (or another model), cached where its cache is right.

        On several processes all must call it alike; each continues its part of the requests.
        """
        given = self.given_generator if policy is None and codec is None else None
        own: Generator = given or self.own_generator(policy, codec)
        return SplitGenerator(own) if processes.world_size() > 1 else own

    @cached_property
    def given_generator(self) -> Generator | None:
        """The plan's own generator, for the run's policy."""
        return self.generation.own_generator(self.policy, self.codec)

    def own_generator(self, policy: Policy | None = None, codec: Codec | None = None) -> PolicyGenerator:
        """The same, of this process alone."""
        policy, codec = policy or self.policy, codec or self.codec
        return PolicyGenerator(
            policy,
            codec.eos_ids if codec is not None else (),
            token_budget=self.generation.token_budget,
            use_cache=self.can_cache(policy),
        )

    def can_cache(self, policy: Policy) -> bool:
        """Whether to use the policy's cache; the reason why not is said once."""
        if not self.generation.use_cache:
            return False
        if policy.cache_kind not in policy.cache_kinds()[:1]:
            self.reporter.say_once(f"this {policy.family} model is sampled by {policy.cache_kind.kind}")
        return policy.cache_kind is not RecomputingCache

    def initial_policy(self) -> Policy:
        """The model as the run began, frozen; read again, so that nobody has to hold it."""
        if self.load_initial is None:
            raise ConfigError(
                "reference initial is the model as a run began, but nothing was kept of it here; use a plan, "
                "or reference stage_start"
            )
        policy = self.load_initial()
        policy.module.to(self.accelerator.device)
        policy.module.eval().requires_grad_(False)
        policy.autocast = self.policy.autocast
        return policy

    def past_policy(self, name: str) -> Policy:
        """The model as the run began ("initial"), or as a finished stage of this run left it; frozen."""
        if name == "initial":
            return self.initial_policy()
        policy = self.policy.copy()
        policy.restore(self._checkpoint(name))
        policy.module.eval().requires_grad_(False)
        return policy

    def return_to(self, name: str) -> None:
        """Gives the policy the weights that `past_policy` names."""
        if name == "initial":
            self.policy.module.load_state_dict(self.initial_policy().module.state_dict())
        else:
            self.policy.restore(self._checkpoint(name))

    def _checkpoint(self, name: str) -> Path:
        if name not in self.checkpoints:
            known = ", ".join(["initial", *self.checkpoints])
            raise ConfigError(
                f"no stage {name!r} of this run is finished, so its model is not known; known: {known}"
            )
        return self.checkpoints[name]

    def needed_codec(self, stage: str) -> Codec:
        if self.codec is None:
            raise ConfigError(
                f"stage {stage!r} samples and judges text, but there is no tokenizer; give one with the "
                "model (or tokenizer_encode and tokenizer_decode)"
            )
        return self.codec


@dataclass
class StageRun:
    """One stage under way."""

    env: Environment
    number: int  # from 1
    name: str
    folder: Path
    metrics: MetricsLog
    watch: Watch = field(default_factory=Watch)  # this one is silent
    # After each optimizer step, once it is logged: step, number of steps, metrics (empty where not logged).
    step_done: Callable[[int, int, dict[str, float]], None] = lambda step, num_steps, metrics: None

    @property
    def store(self) -> ShardStore:
        return ShardStore(self.folder)

    @property
    def seed(self) -> tuple[int | str, ...]:
        """The beginning of every address of this stage."""
        return (self.env.seed, self.number, self.name)


@dataclass
class StageOutcome:
    """What a stage came to; its part of summary.json."""

    counts: Yield = field(default_factory=Yield)
    num_pairs: int = 0
    tokens_generated: int = 0
    generate_seconds: float = 0.0
    judge_seconds: float = 0.0
    train_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, work: Work) -> None:
        """What a search for pairs came to."""
        self.counts = work.counts
        self.tokens_generated = work.tokens_generated
        self.generate_seconds = work.generate_seconds
        self.judge_seconds = work.judge_seconds


_DATA_KEYS = ("data", "valid_data", "prompts", "replay", "seeds", "evaluation_sets", "without")


def _data_sources(settings: BaseModel) -> Iterator[Any]:
    for name, value in settings:
        if name == "evaluation_sets" and isinstance(value, dict):
            yield from value.values()
        elif name in _DATA_KEYS:
            yield value
        elif isinstance(value, BaseModel):
            yield from _data_sources(value)


class StageConfig(Settings):
    """A stage of a plan: its settings, and how it runs."""

    name: str = ""
    kind: str = ""  # a name of the table; of one's own as the plan says it, file.py:Name

    def check(self, env: Environment) -> None:
        """Raises ConfigError or DataError for whatever can be known before any training."""
        _ = env.given_generator  # made, so that what cannot be made is said now
        if callable(own_judge := getattr(getattr(self, "judge", None), "check_custom", None)):
            own_judge()
        train = getattr(self, "train", None)
        if isinstance(train, TrainSettings):
            check_optimizer_arguments(train)
            if train.gradient_checkpointing:
                env.policy.check_recomputing()
        moving = getattr(train, "reference", "")
        if env.is_sharded and moving in ("ema", "refresh"):
            raise ConfigError(
                f"reference {moving} follows the policy at each step, but with sharding: full no process has "
                "all of its weights then; take stage_start or initial, or leave sharding out"
            )
        is_off = isinstance(train, PreferenceSettings) and train.reference == "adapter_off"
        if is_off and (fault := env.policy.adapter_fault()):
            raise ConfigError(f"reference adapter_off cannot be had: {fault}")

    def data_sources(self) -> list[Any]:
        """Everything that may name files to read, wherever it stands in the settings."""
        return list(_data_sources(self))

    def past_models(self) -> dict[str, str]:
        """Setting -> the stage of this run (or "initial") that it names; each must come before this one."""
        return {}

    @abstractmethod
    def run(self, run: StageRun) -> StageOutcome:
        """Trains env.policy in place."""

    @model_validator(mode="before")
    @classmethod
    def _training_keys(cls, values: Any) -> Any:
        """Training settings may stand beside the stage's own: `learning_rate: 1e-6` for `train: {...}`."""
        return cls.with_training_keys_moved(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _own_kind(self) -> Self:
        """A class derived from one of ours is not called by its parent's kind."""
        if "kind" not in type(self).__annotations__:
            self.kind = type(self).__name__
        return self

    @classmethod
    def training_keys(cls, values: Mapping[str, Any]) -> list[str]:
        """Keys of `values` that are training settings and not the stage's own."""
        train = cls.model_fields.get("train")
        kind: Any = train.annotation if train is not None else None
        known = kind.model_fields if kind is not None else {}
        return [key for key in values if key in known and key not in cls.model_fields]

    @classmethod
    def with_training_keys_moved(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Those keys in `train`, where they are over what was there."""
        moved = cls.training_keys(values)
        if not moved or not isinstance(values.get("train", {}), dict):
            return values
        kept = {key: value for key, value in values.items() if key not in moved}
        return {**kept, "train": {**values.get("train", {}), **{key: values[key] for key in moved}}}
