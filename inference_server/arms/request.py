"""What an arms request asks for: its questions, its arms and the seed of each completion.

Pure functions; errors name the field at fault.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from inference_server.errors import InvalidRequest
from inference_server.settings import Settings
from inference_server.wire.schemas import MAX_ARMS, MIN_TEMPERATURE, ArmsRequest, Question
from regime_w import ArmSpec, build_all_arms

# Limits one prompt, for each token of the context: no text has tokens of this length on average, and the
# tokenizer alone would need seconds for texts that are far too long.
MAX_CHARS_PER_TOKEN = 16
# Limits all prompts of a request together: a few seconds of the tokenizer's work.
MAX_PROMPT_CHARS = 2**22

# Integers of this size are exact in every JSON reader, browsers included.
_SEED_BITS = 53


def check_counts(request: ArmsRequest, settings: Settings) -> None:
    """Refuses a request over the server's limits, before anything else is done with it.

    Raises:
        InvalidRequest: Names the field.
    """
    num_questions, num_samples = len(request.questions), request.samples_per_arm
    num_arms = len(request.arm_names)
    if num_questions > settings.max_questions:
        raise InvalidRequest(
            f"{num_questions} questions; the server takes {settings.max_questions}", "questions"
        )
    if num_samples > settings.max_samples_per_arm:
        raise InvalidRequest(
            f"{num_samples} samples per arm; the server takes {settings.max_samples_per_arm}",
            "samples_per_arm",
        )
    if num_questions * num_arms * num_samples > settings.max_completions:
        raise InvalidRequest(
            f"{num_questions} questions × {num_arms} arms × {num_samples} samples; the server takes "
            f"{settings.max_completions} completions a request: ask in several requests",
            "questions",
        )


def check_characters(
    questions: Sequence[Question], arms: Sequence[ArmSpec], context_tokens: int
) -> None:
    """Refuses prompts that are too long however they are tokenized, before any is.

    Raises:
        InvalidRequest: Names the question.
    """
    systems = {arm.system_prompt for arm in arms}
    longest = max(map(len, systems))
    max_chars = MAX_CHARS_PER_TOKEN * context_tokens
    for index, question in enumerate(questions):
        num_chars = longest + len(question.question)
        if num_chars > max_chars:
            raise InvalidRequest(
                f"question {question.id!r}: the prompt has {num_chars} characters, too many for the "
                f"model's context of {context_tokens} tokens",
                f"questions.{index}",
            )
    num_chars = len(systems) * sum(len(question.question) for question in questions)
    num_chars += len(questions) * sum(map(len, systems))
    if num_chars > MAX_PROMPT_CHARS:
        raise InvalidRequest(
            f"the prompts have {num_chars} characters; the server takes {MAX_PROMPT_CHARS} a "
            "request: ask in several requests",
            "questions",
        )


def sample_seed(seed: int, question_id: str, arm_name: str, sample: int) -> int:
    """Seed of one completion; independent of what else the request holds."""
    # Ids and names are free text; `repr` quotes them, so different tuples give different texts.
    text = repr((seed, question_id, arm_name, sample)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest) >> (64 - _SEED_BITS)


def resolve_questions(request: ArmsRequest) -> list[Question]:
    """A request's questions, each with an id.

    Raises:
        InvalidRequest: An id is given twice.
    """
    resolved = request.identified_questions
    if repeated := _first_repeated(question.id for question in resolved):
        raise InvalidRequest(f"question id {repeated!r} is given twice", "questions")
    return resolved


def resolve_arms(arms: Sequence[str | ArmSpec] | None) -> list[ArmSpec]:
    """Looks up arm names; None stands for the eight arms of Regime W.

    Raises:
        InvalidRequest: An arm is unknown, given twice, or has a temperature that is too low.
    """
    known = {arm.name: arm for arm in build_all_arms()}
    if arms is None:
        return list(known.values())
    if not arms:
        raise InvalidRequest(f"0 arms; the server takes 1 to {MAX_ARMS}", "arms")
    resolved = []
    for index, arm in enumerate(arms):
        spec = known.get(arm) if isinstance(arm, str) else arm
        if spec is None:
            raise InvalidRequest(
                f"unknown arm {arm!r}; known are {', '.join(known)}", f"arms.{index}"
            )
        if spec.temperature < MIN_TEMPERATURE:
            raise InvalidRequest(
                f"temperature {spec.temperature} of arm {spec.name!r} is under {MIN_TEMPERATURE}",
                f"arms.{index}.temperature",
            )
        resolved.append(spec)
    if repeated := _first_repeated(spec.name for spec in resolved):
        raise InvalidRequest(f"arm {repeated!r} is given twice", "arms")
    return resolved


def _first_repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
