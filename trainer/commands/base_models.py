"""The commands that write a base model; each imports torch once its settings are checked."""

from trainer.config.sections import DequantizeCommand, TextModelCommand, TinyModelCommand
from trainer.console.interrupts import leaving_at_interrupt
from trainer.io.disk import raise_disk_full
from trainer.io.paths import require_folder


def dequantize(command: DequantizeCommand) -> None:
    """Write the base model with the weights that a 4-bit policy computes with."""
    from trainer.model.base_files import require_base_model

    require_base_model(command.policy.base_model)
    with leaving_at_interrupt():
        from trainer.model.base_model import save_dequantized
        from trainer.model.device import compute_device

    with raise_disk_full(command.output.parent.absolute()):
        save_dequantized(command.policy, command.output, compute_device("auto"))
    print(f"base model in {command.output}")


def write_text_model(command: TextModelCommand) -> None:
    """Extract the language model from a model of text and images."""
    require_folder(command.output, field="output")
    from trainer.model.base_files import require_model

    require_model(command.base_model)
    with leaving_at_interrupt():
        from trainer.model.base_model import save_language_model

    with raise_disk_full(command.output.parent.absolute()):
        save_language_model(command.base_model, command.output)
    print(f"language model in {command.output}")


def make_tiny_model(command: TinyModelCommand) -> None:
    """Write the demo's base model."""
    require_folder(command.output, field="output")
    with leaving_at_interrupt():
        from trainer.console.progress import step_lines
        from trainer.tiny_model.build import build_tiny_model

    output, from_scratch = command.output, command.from_scratch
    with raise_disk_full(output.parent.absolute()), step_lines("tiny-model") as on_step:
        folder = build_tiny_model(output, on_step=on_step, from_scratch=from_scratch)
    print(f"tiny base model in {folder}")
