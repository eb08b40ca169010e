"""Weights to and from safetensors files, without unpickling anybody's code."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_READ_AS_TENSORS = (".pt",)  # the published library's checkpoints


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes the state dict; tensors that share memory (tied weights) are written once."""
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and place in seen:
            continue
        seen[place] = name
        kept[name] = tensor.detach().cpu().contiguous().clone()
    save_file(kept, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file, or from a .pt file, which is read with weights_only=True.

    Raises CheckpointError where the file is damaged, or another kind of pickle.
    """
    if path.suffix in _PICKLES and path.suffix not in _READ_AS_TENSORS:
        raise CheckpointError(_pickle_refused(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    except Exception as error:  # torch refuses pickled code with errors of several types
        raise CheckpointError(
            f"{path} holds more than plain tensors and was not unpickled: {error}. "
            "Save the weights as safetensors."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors")
    return state


def refuse_pickles(folder: Path) -> None:
    """Raises ConfigError for a model's folder whose weights are pickles alone: unpickling runs code."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ConfigError(_pickle_refused(pickles[0]))


def _pickle_refused(path: Path) -> str:
    stem = "model" if path.name == "pytorch_model.bin" else path.stem
    target = path.with_name(f"{stem}.safetensors")
    return (
        f"{path} is a pickle, and unpickling runs whatever code its maker put into it, so it is not read "
        'where safetensors is due. Write its tensors anew, which runs no such code: python -c "import torch; '
        f"from safetensors.torch import save_file; s = torch.load('{path}', map_location='cpu', "
        f"weights_only=True); save_file({{k: v.clone() for k, v in s.items()}}, '{target}', "
        "{'format': 'pt'})\""
    )


def load_weights(module: nn.Module, *paths: Path) -> None:
    """Copies the weights of one file, or of several shards, into the module.

    Raises CheckpointError unless every tensor finds its place and shape.
    """
    if not paths:
        raise CheckpointError("there is no weight file to load; expected at least one .safetensors file")
    state = {name: tensor for path in paths for name, tensor in read_weights(path).items()}
    path = paths[0]
    own = module.state_dict()
    places = {(t.data_ptr(), tuple(t.shape)): t for name, t in own.items() if name in state}
    missing = [
        name
        for name, tensor in own.items()
        if name not in state and (tensor.data_ptr(), tuple(tensor.shape)) not in places
    ]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name}: {tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"{path} does not fit this model; missing: {missing[:5]}, unknown: {unknown[:5]}, "
            f"other shapes: {shapes[:5]}. Build the model with the sizes it was saved with."
        )
    module.load_state_dict(state, strict=False)  # tied names may be absent; checked above
