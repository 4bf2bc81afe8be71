"""What an arms request asks for: its questions, its arms and the seed of each completion.

Pure: a request goes in, and specs or an error that names the field come out.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from inference_server.http.errors import invalid_request
from inference_server.settings import Settings
from inference_server.wire.schemas import ArmsRequest, Question
from regime_w import ArmSpec, build_all_arms

# vLLM silently raises lower temperatures to this one, and would then not sample as it was asked.
MIN_TEMPERATURE = 0.01
MAX_ARMS = 64

# Whole numbers up to here are exact in every JSON reader, browsers included.
_SEED_BITS = 53


def check_counts(request: ArmsRequest, settings: Settings) -> None:
    """Refuses what the server does not take, before anything is tokenized.

    Raises:
        ApiError: 400, naming the field.
    """
    if len(request.questions) > settings.max_questions:
        raise invalid_request(
            f"{len(request.questions)} questions; the server takes {settings.max_questions}",
            "questions",
        )
    if request.samples_per_arm > settings.max_samples_per_arm:
        raise invalid_request(
            f"{request.samples_per_arm} samples per arm; the server takes "
            f"{settings.max_samples_per_arm}",
            "samples_per_arm",
        )


def sample_seed(seed: int, question_id: str, arm_name: str, sample: int) -> int:
    """Seed of one completion: it depends on what is sampled, not on what else the request holds."""
    # Ids and names are free text; their representations cannot run into one another.
    text = repr((seed, question_id, arm_name, sample)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest) >> (64 - _SEED_BITS)


def resolve_questions(questions: Sequence[Question | str]) -> list[Question]:
    """Gives plain strings the ids ``q0``, ``q1``, … by their place.

    Raises:
        ApiError: 400 where an id is given twice.
    """
    resolved = [
        Question(id=f"q{index}", question=question) if isinstance(question, str) else question
        for index, question in enumerate(questions)
    ]
    if repeated := _first_repeated(question.id for question in resolved):
        raise invalid_request(f"question id {repeated!r} is given twice", "questions")
    return resolved


def resolve_arms(arms: Sequence[str | ArmSpec] | None) -> list[ArmSpec]:
    """Looks arm names up; None is the eight of Regime W.

    Raises:
        ApiError: 400 where an arm is unknown, given twice, or cannot be sampled as it says.
    """
    known = {arm.name: arm for arm in build_all_arms()}
    if arms is None:
        return list(known.values())
    if not 1 <= len(arms) <= MAX_ARMS:
        raise invalid_request(f"{len(arms)} arms; the server takes 1 to {MAX_ARMS}", "arms")
    resolved = []
    for index, arm in enumerate(arms):
        spec = known.get(arm) if isinstance(arm, str) else arm
        if spec is None:
            raise invalid_request(
                f"unknown arm {arm!r}; known are {', '.join(known)}", f"arms.{index}"
            )
        if spec.temperature < MIN_TEMPERATURE:
            raise invalid_request(
                f"temperature {spec.temperature} of arm {spec.name!r} is under {MIN_TEMPERATURE}",
                f"arms.{index}.temperature",
            )
        resolved.append(spec)
    if repeated := _first_repeated(spec.name for spec in resolved):
        raise invalid_request(f"arm {repeated!r} is given twice", "arms")
    return resolved


def _first_repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
