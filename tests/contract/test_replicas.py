"""An engine of several replicas: each is tried, each group stays on one, and one can be asked for by its number."""

from collections import Counter

import pytest

from inference_server.arms.replicas import Replicas
from tests.contract.client import Client, Restart
from tests.contract.fake_engine import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine()
    engine.has_replicas(2)
    return engine


async def test_each_replica_is_warmed_up_and_tries_each_version(
    restart: Restart, engine: FakeEngine
) -> None:
    client, _ = await restart(engine)
    assert sorted(engine.replicas, key=str) == [0, 1]
    assert (await client.put_adapter(1)).status_code == 201
    assert sorted(engine.probed, key=str) == [0, 1]
    assert (await client.get("/v1/status")).json()["num_replicas"] == 2


async def test_a_version_that_one_replica_cannot_compute_is_refused(
    client: Client, engine: FakeEngine
) -> None:
    engine.spoilt_replica = 1
    engine.probes_end.clear()  # the other one is busy with something else
    refused = await client.put_adapter(1)
    assert refused.status_code == 400
    assert "not finite" in refused.json()["error"]["message"]
    assert not engine.loaded


async def test_a_group_stays_on_the_replica_that_has_the_least_to_do(
    client: Client, engine: FakeEngine
) -> None:
    engine.replicas.clear()  # the warm-up
    groups = (await client.arms(questions=["1?", "2?"])).json()["groups"]
    assert sorted(group["replica"] for group in groups) == [0, 1]
    assert Counter(engine.replicas) == {0: 8, 1: 8}


async def test_one_replica_can_be_asked(client: Client, engine: FakeEngine) -> None:
    engine.replicas.clear()  # the warm-up
    groups = (await client.arms(questions=["1?", "2?"], replica=1)).json()["groups"]
    assert [group["replica"] for group in groups] == [1, 1]
    assert set(engine.replicas) == {1}


@pytest.mark.parametrize("replica", [2, -1, "0", 0.0, True])
async def test_a_replica_that_there_is_not_is_refused_by_name(
    client: Client, replica: object
) -> None:
    refused = await client.arms(replica=replica)
    assert refused.status_code in (400, 422)
    assert refused.json()["error"]["param"] == "replica"


async def test_where_there_is_one_replica_nothing_is_said_of_it(restart: Restart) -> None:
    client, engine = await restart(FakeEngine())
    (group,) = (await client.arms(replica=0)).json()["groups"]
    assert "replica" not in group
    assert set(engine.replicas[1:]) == {None}  # the first is the warm-up's


def test_a_replica_is_free_again_after_its_group() -> None:
    replicas = Replicas(2)
    with replicas.lease(None, 8) as first, replicas.lease(None, 8) as second:
        assert (first, second) == (0, 1)
        with replicas.lease(1, 8) as asked:
            assert asked == 1
            with replicas.lease(None, 8) as third:
                assert third == 0
    with replicas.lease(None, 8) as again:
        assert again == 0
    with Replicas(1).lease(None, 8) as only:
        assert only is None
