"""Makes OpenAI's chat route render prompts with the same template variables as in training."""

import argparse
from contextlib import suppress

from transformers import AutoTokenizer

from inference_server.wire.prompt_frames import TEMPLATE_VARIABLES
from inference_server.wire.settings.errors import SettingsError


def set_template_variables(args: argparse.Namespace) -> None:
    """Set the variables that the model's chat template reads, unless the user did.

    No other variables are set: vLLM's reasoning parsers read them too, and would take the thoughts of a model that
    always thinks for its answer.

    Args:
        args: vLLM's parsed arguments; changed in place.

    Raises:
        SettingsError: The user's variables are not a JSON object.
    """
    given = args.default_chat_template_kwargs or {}
    if not isinstance(given, dict):
        raise SettingsError("--default-chat-template-kwargs: must be a JSON object")
    template = ""
    # If the tokenizer cannot be loaded, vLLM says why when it loads it.
    with suppress(Exception):
        tokenizer = AutoTokenizer.from_pretrained(
            args.tokenizer or args.model,
            revision=args.tokenizer_revision or args.revision,
            mistral_format=False,
        )
        template = str(tokenizer.chat_template)
    read = {name: value for name, value in TEMPLATE_VARIABLES.items() if name in template}
    args.default_chat_template_kwargs = {**read, **given}
