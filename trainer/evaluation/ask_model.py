"""Asks one served model some questions, all in the same way."""

from collections.abc import Sequence

from inference_server.wire.schemas import ArmsRequest, Question
from trainer.client.ask_groups import policy_of
from trainer.client.asked_model import AskedModel
from trainer.client.protocol import GreedyPrompt, InferenceServer
from trainer.config.sections import EvaluationConfig
from trainer.data.sources import Record
from trainer.evaluation.records import Answer, ArmsAnswer, ModelAnswers


async def ask_model(
    client: InferenceServer,
    model: AskedModel,
    records: Sequence[Record],
    config: EvaluationConfig,
) -> list[ModelAnswers]:
    """A model's answers to some of the questions: greedy ones, and those of all arms if these are asked for.

    Args:
        client: The server.
        model: Who is asked.
        records: The questions.
        config: How they are asked.

    Raises:
        ServerError: The server stayed unreachable, refused, or aborted the requests again and again.
    """
    prompt = GreedyPrompt(
        system_prompt=config.greedy_arm.system_prompt,
        prompt_format=config.prompt_format,
        max_tokens=config.max_tokens,
        stop=config.stop,
    )
    questions = [record.question for record in records]
    completions = await model.ask(
        lambda version: client.complete(version, questions, prompt),
        give_up_after_s=config.server.give_up_after_s,
    )
    by_arms = await _ask_arms(model, records, config)
    return [
        ModelAnswers(
            greedy=Answer.of(
                c.text,
                record.gold,
                num_tokens=c.num_tokens,
                truncated=c.truncated,
                answer_type=record.answer_type,
            ),
            arms=of_arms,
        )
        for c, record, of_arms in zip(completions, records, by_arms, strict=True)
    ]


async def _ask_arms(
    model: AskedModel,
    records: Sequence[Record],
    config: EvaluationConfig,
) -> Sequence[ArmsAnswer | None]:
    if not config.samples_per_arm:
        return [None] * len(records)
    request = ArmsRequest(
        # The server derives a completion's seed from the question's id, not from its batch.
        questions=[Question(id=record.id, question=record.question) for record in records],
        arms=list(config.arms),
        samples_per_arm=config.samples_per_arm,
        max_tokens=config.max_tokens,
        prompt_format=config.prompt_format,
        stop=config.stop,
        seed=config.seed,
    )
    groups = await model.groups(
        lambda version: request.model_copy(update={"policy": policy_of(version)}),
        give_up_after_s=config.server.give_up_after_s,
    )
    return [ArmsAnswer.of(group, record) for group, record in zip(groups, records, strict=True)]
