"""Whether the Hub has a model, asked in seconds: its own downloads retry for the better part of a minute."""

_TIMEOUT_S = 10.0


def why_not_on_hub(model: str) -> str | None:
    """Why a model that is not on this machine cannot be had, in a few words; None where the Hub has it.

    Args:
        model: A Hub id.
    """
    # They take longer to import than most commands need to fail.
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; download it first, or name a folder"
    try:
        HfApi().model_info(model, timeout=_TIMEOUT_S)
    except Exception as error:  # Which types there are depends on the library's version.
        reason = " ".join(str(error).split())
        return f"the Hub does not give it ({reason}); name a folder, or download it where there is a network"
    return None
