"""Which of several servers, or of the replicas of one, made which groups."""

import pytest

from inference_server.wire.schemas import ArmGroup
from regime_w import RewardConfig
from trainer.data.sources import Record
from trainer.rollouts.groups import ScoredGroup, ServedGroup, score_group
from trainer.rollouts.rows import rollout_row
from trainer.servers.origins import THE_SERVER, Origin, by_origin, replicas_of

ARM = {
    "arm": "wolfram_0",
    "sample": 0,
    "text": "#### 1",
    "finish_reason": "stop",
    "temperature": 1.0,
    "top_p": 1.0,
    "seed": None,
    "prompt_token_ids": [1],
    "token_ids": [2],
    "logprobs": [-0.1],
}


def scored(group: ArmGroup) -> ScoredGroup:
    return score_group(Record(id=group.id, question="?", gold="1"), group, RewardConfig())


def group_of(number: int, *, replica: int | None = None, server: str | None = None) -> ScoredGroup:
    fields = {"id": str(number), "question": "?", "policy_version": 1, "arms": [ARM]}
    if server is None:
        return scored(ArmGroup.model_validate({**fields, "replica": replica}))
    served = {"server": server, "server_boot_id": "b", "replica": replica}
    return scored(ServedGroup.model_validate(fields | served))


def test_groups_are_told_apart_by_server_and_replica() -> None:
    groups = [
        group_of(0, server="http://a:1"),
        group_of(1, server="http://b:1", replica=0),
        group_of(2, server="http://b:1", replica=1),
        group_of(3, server="http://b:1", replica=0),
    ]
    found = {origin: [g.group.id for g in made] for origin, made in by_origin(groups).items()}
    assert found == {
        Origin("http://a:1", "b"): ["0"],
        Origin("http://b:1", "b", 0): ["1", "3"],
        Origin("http://b:1", "b", 1): ["2"],
    }


def test_one_server_is_told_by_its_replicas_alone() -> None:
    assert list(by_origin([group_of(0), group_of(1)])) == [THE_SERVER]
    several = by_origin([group_of(0, replica=1), group_of(1, replica=0)])
    assert list(several) == [Origin(replica=1), Origin(replica=0)]


@pytest.mark.parametrize(
    ("origin", "label"),
    [
        (THE_SERVER, ""),
        (Origin(replica=0), "replica 0"),
        (Origin("http://a:1", "b"), "http://a:1"),
        (Origin("http://a:1", "b", 2), "http://a:1, replica 2"),
    ],
)
def test_messages_name_what_can_be_told_apart(origin: Origin, label: str) -> None:
    assert origin.label == label


def test_each_replica_of_several_is_an_origin() -> None:
    server = Origin("http://a:1", "b")
    assert replicas_of(server, 1) == [server]
    assert replicas_of(server, 2) == [Origin("http://a:1", "b", 0), Origin("http://a:1", "b", 1)]


def test_a_row_says_which_replica_made_it() -> None:
    assert rollout_row(group_of(0, replica=0))["replica"] == 0
    assert "replica" not in rollout_row(group_of(0))
