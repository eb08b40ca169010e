"""A checkpoint to the Hugging Face hub. The only file that talks to it."""

from __future__ import annotations

from pathlib import Path

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.checkpoint_files import check_in_its_run

_LEFT_OUT = [".*", "*.tmp", "**/.*"]


def push_folder(folder: Path, repo: str, *, private: bool = True) -> str:
    """Uploads a checkpoint's folder as one commit and returns its address; makes the repository if need be.

    private: of a repository that is made now. The token is the environment's (`hf auth login`, HF_TOKEN).
    Raises ConfigError for a folder that holds no model, and CheckpointError where the folder is not what its
    run wrote, or the hub cannot be reached or refuses.
    """
    if not folder.is_dir() or not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} holds no weights (*.safetensors), so there is no model to push; name a stage's "
            "checkpoint, RUN/stages/NN-NAME/checkpoint"
        )
    check_in_its_run(folder)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ConfigError("pushing needs huggingface_hub: pip install huggingface_hub") from error
    api = HfApi(library_name="self-rewarding-lm-pytorch")
    try:
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        message = f"Checkpoint {folder.parent.name}" if folder.name == "checkpoint" else "Checkpoint"
        done = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, ignore_patterns=_LEFT_OUT
        )
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name of a model on the hub ({error}); give OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise CheckpointError(_refused(folder, repo, error)) from error
    except Exception as error:  # of its HTTP library, and of what that is built on
        raise CheckpointError(
            f"{folder} could not be pushed to {repo}: {type(error).__name__}: {error!s:.300}. The folder is "
            f"whole and stays where it is; once the hub can be reached: {command(folder, repo, private)}"
        ) from error
    return str(done.commit_url)


def command(folder: Path, repo: str, private: bool = True) -> str:
    """What pushes it by hand."""
    return f"self-rewarding-lm push {folder} {repo}{'' if private else ' --public'}"


def _refused(folder: Path, repo: str, error: Exception) -> str:
    status = int(getattr(getattr(error, "response", None), "status_code", 0))
    advice = {
        401: "Log in with a token that may write (hf auth login, or HF_TOKEN)",
        403: "The token may not write there: take one that may, or another OWNER/NAME",
        404: "There is no such owner, or the token does not see it",
    }.get(status, "Try again later")
    said = (str(error).strip().splitlines() or [""])[0]
    return (
        f"the hub refused {repo} ({status}: {said:.300}). {advice}. {folder} is whole and stays where it is"
    )
