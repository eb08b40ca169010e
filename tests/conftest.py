"""What every test may ask for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# A machine under load is no fault of the code's.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """No test depends on which ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    """A real pretrained Llama of 260 K parameters, where `shared` lies beside the repository."""
    folder = ROOT.parent / "shared" / "data" / "stories260K"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"the stories260K model is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def stories_tokenizer(stories_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(stories_folder)


@pytest.fixture
def stories_model(stories_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(stories_folder).eval()
