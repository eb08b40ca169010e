"""The model of a plan: loaded, and as it was when the run began."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.data.files import is_there, write_folder
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.adapters import with_new_adapter
from self_rewarding_lm_pytorch.models.checkpoint_files import without_times
from self_rewarding_lm_pytorch.models.load import codec_for, load_policy, policy_for
from self_rewarding_lm_pytorch.models.of_runs import INITIAL, model_source
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import refuse_pickles
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder import RunFolder
from self_rewarding_lm_pytorch.stages.adapter_settings import AdapterSettings
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.text import Codec

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator


def environment(plan: Plan, reporter: Reporter, accelerator: Accelerator) -> Environment:
    """What the plan's stages share, with its model on its device."""
    if plan.sharding == "full" and processes.world_size() == 1:
        raise ConfigError(
            "sharding: full gives each process a part of the weights, but this run has one process, which "
            "would hold all of them; start it with torchrun --nproc-per-node N -m self_rewarding_lm_pytorch "
            "train PLAN, or leave sharding out"
        )
    policy, codec = model(plan, accelerator.device)
    policy.module.to(accelerator.device)
    processes.share_weights(policy.module)
    policy.module.eval()
    policy.autocast = accelerator.autocast
    return Environment(
        policy,
        codec,
        plan.seed,
        accelerator,
        reporter,
        plan.generation,
        plan.base,
        save_every_seconds=plan.save_every_seconds,
        alarms=plan.alarms.limits(),
        is_sharded=plan.sharding == "full",
    )


def model(plan: Plan, device: torch.device | str = "cpu") -> tuple[Policy, Codec | None]:
    """The plan's model, with its adapter, and its codec. Raises ConfigError.

    device: where quantized weights are put, which cannot be moved; others are on the CPU.
    """
    adapter, base = plan.adapter, None
    if isinstance(plan.model, str | Path):
        name = model_source(str(plan.model), plan.base)
        refuse_pickles(Path(name))  # before its tokenizer is looked for
        policy, codec = load_policy(
            name,
            dtype=plan.dtype,
            trust_remote_code=plan.trust_remote_code,
            quantize=None if adapter is None else adapter.quantize,
            device=device,
        )
        base = str(Path(name).resolve()) if Path(name).is_dir() else name
    elif isinstance(plan.model, Policy):
        policy, codec = plan.model, None
    elif isinstance(plan.model, nn.Module):
        policy, codec = policy_for(plan.model), None
    else:
        raise ConfigError(f"model must be a name, a folder or a module, not {type(plan.model).__name__}")
    if adapter is not None:
        policy = _adapted(plan, adapter, policy, base)
    if plan.tokenizer is not None:
        is_codec = hasattr(plan.tokenizer, "prompt_ids")
        codec = plan.tokenizer if is_codec else codec_for(plan.tokenizer, policy.module)
    return policy, codec if plan.chat is None else plan.chat.applied(codec, plan.base)


def _adapted(plan: Plan, adapter: AdapterSettings, policy: Policy, base: str | None) -> Policy:
    if adapter.quantize is not None and base is None:
        raise ConfigError(
            f"adapter: quantize: {adapter.quantize} is done as a model is read, and "
            f"{type(plan.model).__name__} is one already; name its folder or hub name as the "
            "model, or leave quantize out"
        )
    return with_new_adapter(
        policy,
        adapter.peft_arguments(),
        seed=plan.seed,
        is_merged=adapter.is_merged,
        base=base or plan.run.resolve() / INITIAL,
    )


def keep_initial(plan: Plan, folder: RunFolder, env: Environment) -> None:
    """A module given from Python exists nowhere else: its first weights are kept for a resumed run."""
    if isinstance(plan.model, str | Path):
        return
    initial = folder.path / INITIAL
    noted = folder.manifest.get("initial")
    if is_there(initial):
        folder.check(initial, noted)
        env.policy.restore(initial)
        if not noted:
            folder.save(initial=folder.noted(initial))
        return
    # Of a planned adapter the model below it is kept: the adapter begins as the seed says.
    write_folder(initial, getattr(env.policy, "save_base", env.policy.save))
    found = folder.noted(initial)
    if noted and without_times(noted) != without_times(found):
        processes.on_main(partial(shutil.rmtree, initial))
        raise CheckpointError(
            f"{initial}, the weights this run began with, is gone, and the model that was given has others; "
            "put the folder back from a copy, give a model with those weights, or begin afresh (fresh=True)"
        )
    folder.save(initial=found)


def initial_policy(plan: Plan, folder: RunFolder, env: Environment) -> Policy:
    """The model as the run began, in memory of its own."""
    if isinstance(plan.model, str | Path):
        return model(plan, env.accelerator.device)[0]
    policy = env.policy.copy()
    folder.check(folder.path / INITIAL, folder.manifest.get("initial"))
    policy.restore(folder.path / INITIAL)
    return policy
