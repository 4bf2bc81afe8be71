"""Says in few words how a setting differs from the one that was kept."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from pydantic import TypeAdapter, ValidationError

from inference_server.wire.settings.model import NULL
from regime_w import ArmSpec, build_all_arms
from regime_w.arms import ARM_SETS

_ARMS = "arms"
_MOST_CHARACTERS = 200
_BEFORE_CHARACTERS = 40
"""How much of the same beginning stays before the first difference of long values."""
_MOST_CHANGES = 8
_ARM_LIST = TypeAdapter(tuple[ArmSpec, ...])


def change_text(key: str, before: object, now: object) -> str:
    """``key was … and is …``, of arms only what differs, and with long values cut.

    Args:
        key: The setting, such as ``rollout.arms``.
        before: The kept value as TOML knows it; ``null`` for none.
        now: The value now, likewise.
    """
    if key.rpartition(".")[2] == _ARMS:
        arms, new_arms = _arms(before), _arms(now)
        if arms is not None and new_arms is not None:
            return f"{key}: {_arms_change(arms, new_arms)}"
    old, new = _shortened(str(before), str(now))
    return f"{key} was {old} and is {new}"


def sampled_arm(arm: ArmSpec) -> str:
    """An arm for a message: its name, and how its completions are sampled."""
    return f"{arm.name} (temperature {arm.temperature:g}, top_p {arm.top_p:g})"


def _arms(value: object) -> tuple[ArmSpec, ...] | None:
    """The arms of a value, in which null stands for the recipe's; None if it is no list of arms."""
    if value == NULL:
        return build_all_arms()
    with suppress(ValidationError):
        return _ARM_LIST.validate_python(value)
    return None


def _arms_change(before: Sequence[ArmSpec], now: Sequence[ArmSpec]) -> str:
    old_name, new_name = _set_name(before), _set_name(now)
    if [arm.name for arm in before] != [arm.name for arm in now] or (old_name and new_name):
        return f"was {_cut(old_name or _listed(before))} and is {_cut(new_name or _listed(now))}"
    changes = [
        f"{new.name} had {key} %s and has %s"
        % _shortened(str(getattr(old, key)), str(getattr(new, key)))
        for old, new in zip(before, now, strict=True)
        for key in ("temperature", "top_p", "system_prompt")
        if getattr(old, key) != getattr(new, key)
    ]
    more = f"; and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
    return f"{'; '.join(changes[:_MOST_CHANGES])}{more}"


def _set_name(arms: Sequence[ArmSpec]) -> str | None:
    return next((name for name, make in ARM_SETS.items() if make() == arms), None)


def _listed(arms: Sequence[ArmSpec]) -> str:
    return ", ".join(map(sampled_arm, arms))


def _shortened(before: str, now: str) -> tuple[str, str]:
    """Two values, both without what is the same in their beginnings if one of them is long, and cut."""
    if max(len(before), len(now)) > _MOST_CHARACTERS:
        start = max(0, _num_same(before, now) - _BEFORE_CHARACTERS)
        if start:
            before, now = f"…{before[start:]}", f"…{now[start:]}"
    return _cut(before), _cut(now)


def _num_same(first: str, second: str) -> int:
    """How many characters are the same at the beginning of both."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in same)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
