"""Publishing a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from cse.errors import UserError


def push(checkpoint: Path, repo: str, *, private: bool = False) -> str:
    """Upload a checkpoint's folder as a model repository; returns its address.

    Raises:
        UserError: It is not a checkpoint, the name is not one, or the Hub refuses or is not reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in __all__

    if not (checkpoint / "modules.json").is_file():
        raise UserError(f"checkpoint {checkpoint} is not one (no modules.json)\nfix: give a run's best/ or last/")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"repository {repo!r}: {str(error).splitlines()[0]}\nfix: give you/name") from error
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=checkpoint, commit_message="Upload sentence encoder")
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"repository {repo}: {str(error).strip().splitlines()[0][:200]}\n"
            "fix: log in with `hf auth login` (or set HF_TOKEN), and unset HF_HUB_OFFLINE"
        ) from error
    return f"{api.endpoint}/{repo}"
