"""What a command says about a learning rate that was made for full fine-tuning."""

_LOW = 1e-5


def low_learning_rate(key: str, learning_rate: float) -> list[str]:
    """One line where LoRA hardly learns at a rate, else none.

    Args:
        key: The setting's name.
        learning_rate: AdamW's, of a LoRA adapter.
    """
    if learning_rate >= _LOW:
        return []
    return [
        f"{key} = {learning_rate:g} is low: LoRA learns at about 10 × the rate of full fine-tuning; "
        f"take {_LOW:g} or more"
    ]
