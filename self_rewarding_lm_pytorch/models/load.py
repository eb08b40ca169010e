"""From what a user has (a module, a folder, a hub name, a factory) to a policy and its codec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.adapters import (
    base_of,
    compute_alike,
    is_adapter_folder,
    needs,
    quantization,
)
from self_rewarding_lm_pytorch.models.checkpoint_files import check_in_its_run, is_model_folder
from self_rewarding_lm_pytorch.models.of_runs import (
    FoundModel,
    found_model,
    model_source,
    no_builder,
    no_model_in,
)
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import refuse_pickles
from self_rewarding_lm_pytorch.objects import load_object
from self_rewarding_lm_pytorch.text import Codec, HuggingFaceCodec


def policy_for(module: nn.Module, *, tokenizer: Any = None) -> Policy:
    """The policy of a module's family: peft, Hugging Face, x-transformers, or any module to logits."""
    families = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    if "peft" in families:  # before transformers, of whose classes it is too
        from self_rewarding_lm_pytorch.models.huggingface_adapters import AdapterPolicy

        return AdapterPolicy(module, tokenizer)
    if "transformers" in families:
        from self_rewarding_lm_pytorch.models.huggingface import HuggingFacePolicy

        if getattr(module, "_hf_peft_config_loaded", False):
            raise ConfigError(
                "the model holds an adapter as transformers itself loads it, which no checkpoint could be "
                "restored to; load it with peft: PeftModel.from_pretrained(base, folder, is_trainable=True)"
            )
        return HuggingFacePolicy(module, tokenizer)
    if "x_transformers" in families:
        from x_transformers import AutoregressiveWrapper, TransformerWrapper

        from self_rewarding_lm_pytorch.models.x_transformers import XTransformersPolicy

        if isinstance(module, AutoregressiveWrapper):
            raise ConfigError(
                "the model is an AutoregressiveWrapper, which returns a loss; pass the network inside "
                "it (`wrapper.net`)"
            )
        if isinstance(module, TransformerWrapper):
            return XTransformersPolicy(module)
    from self_rewarding_lm_pytorch.models.plain import PlainPolicy

    return PlainPolicy(module)


def load_policy(
    source: str,
    *,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    quantize: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Policy, Codec | None]:
    """A policy and, where the source brings one, its codec.

    source: a folder or hub name for transformers, an adapter's folder as peft writes it (the base model is
    the one that it names, `base_of`), a run, RUN:STAGE or a stage's folder (`models/of_runs.py`), or
    `file.py:name` or `module:name` of a function without arguments that returns a module or (module, codec);
    folders and files are looked for beside the plan first.
    trust_remote_code: code that a folder or hub name brings is run. quantize: "4bit" or "8bit", on `device`,
    where such weights stay. Raises ConfigError where it cannot be loaded whole, without unpickling anything,
    and CheckpointError for a run's checkpoint that is not what the run wrote.
    """
    source = model_source(source)
    folder = Path(source)
    if folder.is_dir():
        check_in_its_run(folder)
    elif ":" in source and not folder.exists():
        if quantize is not None:
            raise ConfigError(f"quantize: {source!r} is made by a function; give a folder or a hub name")
        return _from_factory(source)
    if is_adapter_folder(folder):
        return _adapted(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if folder.is_dir() and not (folder / "tokenizer_config.json").is_file():
        found = found_model(source)
        if found is not None and found.plan:
            return _over_its_builder(found, quantize=quantize, device=device, **arguments)
    if folder.is_dir() and not is_model_folder(folder):
        raise ConfigError(no_model_in(source))
    import transformers

    what = f"model {source!r}"
    tokenizer = _pretrained(
        transformers.AutoTokenizer, source, f"the tokenizer of {what}", trust_remote_code=trust_remote_code
    )
    arguments["dtype"] = _dtype(dtype)
    if quantize is not None:
        compute = _dtype(dtype) if dtype != "auto" else torch.bfloat16
        arguments["quantization_config"] = quantization(quantize, compute)
        arguments["device_map"] = {"": device}  # such weights cannot be moved later
    module = _weights_of(transformers.AutoModelForCausalLM, source, what, **arguments)
    compute_alike(module)
    return policy_for(module, tokenizer=tokenizer), codec_for(tokenizer, module)


def _over_its_builder(found: FoundModel, **arguments: Any) -> tuple[Policy, Codec | None]:
    """A run's weights over what its plan says that builds the model."""
    assert found.place is not None
    if found.builder is None:
        raise ConfigError(no_builder(found.place))
    policy, codec = load_policy(found.builder, **arguments)
    policy.restore(found.place)
    return policy, codec


def _adapted(folder: Path, *, dtype: str, trust_remote_code: bool) -> tuple[Policy, Codec | None]:
    """An adapter on the model that it names, to be trained on; its own tokenizer where it brings one."""
    base = base_of(folder)
    if is_adapter_folder(Path(base)):
        raise ConfigError(f"{folder} is an adapter on {base!r}, which is one itself; merge that one first")
    needs("peft", f"the adapter {folder}")
    from self_rewarding_lm_pytorch.models.huggingface_adapters import put_on

    policy, codec = load_policy(base, dtype=dtype, trust_remote_code=trust_remote_code)
    tokenizer = getattr(policy, "tokenizer", None)
    if (folder / "tokenizer_config.json").is_file():
        import transformers

        what = f"the tokenizer of {str(folder)!r}"
        tokenizer = _pretrained(
            transformers.AutoTokenizer, str(folder), what, trust_remote_code=trust_remote_code
        )
        codec = codec_for(tokenizer, policy.module)
    return put_on(policy.module, folder, tokenizer), codec


def load_reward_model(source: str) -> tuple[nn.Module, HuggingFaceCodec]:
    """A sequence classifier with one output, as reward models are published, and its own codec.

    source: a folder or hub name. Raises ConfigError where it cannot be loaded, or has several outputs.
    """
    import transformers

    if (found := found_model(source)) is not None and found.which:
        raise ConfigError(
            f"reward model {source!r} is {found.which} of a run, which writes text; a reward model gives a "
            "number: name one, or let that model judge (judge: {model: ...})"
        )
    source = model_source(source)
    what = f"reward model {source!r}"
    tokenizer = _pretrained(transformers.AutoTokenizer, source, f"the tokenizer of {what}")
    config = _pretrained(transformers.AutoConfig, source, what)
    if config.num_labels != 1:
        raise ConfigError(
            f"{what} has {config.num_labels} outputs, so which of them is the reward "
            "is not known; give a model with one, or a function that says how they become one"
        )
    module = _weights_of(transformers.AutoModelForSequenceClassification, source, what)
    codec = HuggingFaceCodec(tokenizer, vocab_size=_vocab_size(module))
    return module.eval().requires_grad_(False), codec


def _weights_of(kind: Any, source: str, what: str, **arguments: Any) -> Any:
    """A model all of whose weights are in safetensors files; transformers alone makes up missing ones."""
    refuse_pickles(Path(source))
    module, found = _pretrained(
        kind,
        source,
        what,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with the shapes
        **arguments,
    )
    shapes = [
        f"{name} has {tuple(saved)} in the file, {tuple(own)} in the model"
        for name, saved, own in sorted(found["mismatched_keys"])
    ]
    missing = sorted(found["missing_keys"])
    if shapes or missing:
        faults = [*shapes[:3], *([f"{', '.join(missing[:3])} missing"] if missing else [])]
        raise ConfigError(
            f"{what} does not hold the weights of a {type(module).__name__}: {'; '.join(faults)} "
            f"({len(shapes) + len(missing)} in all), which would begin as random numbers. Give the folder of "
            "a model of that kind, written whole by save_pretrained"
        )
    return module


def _pretrained(kind: Any, source: str, what: str, **arguments: Any) -> Any:
    from self_rewarding_lm_pytorch.models.huggingface import no_progress_bars

    arguments.setdefault("trust_remote_code", False)  # left out, transformers asks on the terminal
    try:
        with no_progress_bars():
            return kind.from_pretrained(source, **arguments)
    except Exception as error:  # the library raises of many families, also safetensors'
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{what} brings code of its own, which is not run unasked. Read it, and if you trust it, set "
                "trust_remote_code: true in the plan"
            ) from error
        raise ConfigError(
            f"{what} cannot be loaded: {' '.join(str(error).split()):.400}. Give a folder written by "
            "save_pretrained (model and tokenizer, weights as safetensors), a hub name, or, for a model that "
            "is trained, module:factory."
        ) from error


def codec_for(tokenizer: Any, module: Any = None) -> HuggingFaceCodec:
    """The codec of a Hugging Face tokenizer; ends known only to the generation config count too."""
    generation = getattr(module, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    extra = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return HuggingFaceCodec(tokenizer, extra_eos_ids=extra, vocab_size=_vocab_size(module))


def _vocab_size(module: Any) -> int | None:
    config: Any = getattr(module, "config", None)
    known = config.get_text_config() if hasattr(config, "get_text_config") else module
    sizes = (getattr(known, name, None) for name in ("vocab_size", "num_tokens"))
    return next((size for size in sizes if isinstance(size, int)), None)


def new_llama(seed: int, **config: Any) -> nn.Module:
    """An untrained Llama; config: arguments of transformers' LlamaConfig."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
        return module


def model_factory(source: str) -> Callable[[], Any]:
    """The function that `file.py:name` or `package.module:name` names, not called. Raises ConfigError."""
    wanted = "a function without arguments, which returns a module, or a module and a codec"
    found = load_object(source, what="model", wanted=wanted)
    if not callable(found):
        raise ConfigError(f"model {source!r} is {found!r:.80}, which cannot be called; give {wanted}")
    factory: Callable[[], Any] = found
    return factory


def _from_factory(source: str) -> tuple[Policy, Codec | None]:
    factory = model_factory(source)
    try:
        made = factory()
    except Exception as error:  # anybody's function
        raise ConfigError(
            f"model {source!r}: {error!r:.300}; expected a function without arguments that returns a module, "
            "or a module and a codec"
        ) from error
    module, codec = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model {source!r} gave {type(module).__name__}; its function must return an nn.Module, or "
            "(nn.Module, codec)"
        )
    return policy_for(module), codec


def _dtype(name: str) -> Any:
    known = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigError(f"dtype {name!r} is not known; known: {', '.join(known)}")
    return known[name]
