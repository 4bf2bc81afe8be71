"""The gain from several servers and the cost of asking them, measured with in-memory servers of a known rate.

Scaling: the time for the same number of groups per server, with 1 to 8 servers; 1.0 of linear is as fast as one server
alone. Cost: the pool's CPU time per group, in a step of 10,000 groups on 64 servers, and its share of the step. One slow
server: the time of a step on four servers, one of which works at a tenth of the others' rate.

    python -m benchmarks.server.many_servers
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.arguments import benchmark_parser
from inference_server.wire.schemas import Limits
from tests.unit.several_servers import RatedServer, group_request_of, write_version
from trainer.servers.pool import ServerPool

SECONDS_A_GROUP = 0.2
PLACES = 8
"""Groups that a server works on at once."""
SLOW_TIMES = 10.0


def servers(count: int, seconds: float, places: int) -> list[RatedServer]:
    limits: dict[str, object] = dict.fromkeys(Limits.model_fields, 512)
    return [
        RatedServer(name=f"s{number}", seconds=seconds, places=places, limit_change=limits)
        for number in range(count)
    ]


async def step_s(
    asked: Sequence[RatedServer], num_groups: int, steps: int = 1
) -> tuple[list[float], list[float], Mapping[str, float]]:
    """Seconds of each step, the process's CPU seconds of each, and the pool's metrics."""
    took_s: list[float] = []
    cpu_s: list[float] = []
    clients = {f"http://{server.name}:1": server for server in asked}
    with TemporaryDirectory() as folder:
        async with ServerPool(clients, give_up_after_s=60.0) as pool:
            await pool.status()
            await pool.push_adapter(1, write_version(Path(folder)))
            for step in range(steps):
                requests = [group_request_of(step * num_groups + i) for i in range(num_groups)]
                started_s, started_cpu_s = time.perf_counter(), time.process_time()
                await asyncio.gather(*(pool.generate(request) for request in requests))
                took_s.append(time.perf_counter() - started_s)
                cpu_s.append(time.process_time() - started_cpu_s)
            answered = [name for server in asked for name in server.answered]
            assert len(set(answered)) == num_groups * steps
            return took_s, cpu_s, pool.metrics


async def alone_cpu_s(num_groups: int, num_servers: int, seconds: float, places: int) -> float:
    """CPU seconds of the same servers when each is asked for its share without a pool."""
    asked = servers(num_servers, seconds, places)
    for server in asked:
        server.held[1] = "x"
    requests = [group_request_of(i) for i in range(num_groups)]
    started_s = time.process_time()
    await asyncio.gather(
        *(asked[i % num_servers].generate(request) for i, request in enumerate(requests))
    )
    return time.process_time() - started_s


async def main(num_groups: int, num_servers: int) -> None:
    per_server = 10 * PLACES
    one_s = 0.0
    for count in (1, 2, 4, 8):
        (took_s,), _, metrics = await step_s(
            servers(count, SECONDS_A_GROUP, PLACES), per_server * count
        )
        one_s = one_s or took_s
        print(
            f"{count} servers, {per_server * count} groups: {took_s:.2f} s, "
            f"{one_s / took_s:.3f} of linear, {metrics['servers/asked_again']:.0f} asked again"
        )
    slow = servers(4, SECONDS_A_GROUP, PLACES)
    slow[0].seconds *= SLOW_TIMES
    took, _, metrics = await step_s(slow, per_server * 3, steps=4)
    ideal_s = per_server * 3 * SECONDS_A_GROUP / PLACES / (3 + 1 / SLOW_TIMES)
    print(
        f"4 servers, one at 1/{SLOW_TIMES:g} of the rate: steps of "
        f"{', '.join(f'{each:.2f}' for each in took)} s, at best {ideal_s:.2f} s, "
        f"{metrics['servers/asked_again']:.0f} asked again"
    )
    # A step of 100 s, so that the servers' own sleeping is not part of what is measured.
    places, seconds = 16, 100.0 * num_servers * 16 / num_groups
    alone_s = await alone_cpu_s(num_groups, num_servers, seconds, places)
    (took_s,), (cpu_s,), _ = await step_s(servers(num_servers, seconds, places), num_groups)
    cost_s = cpu_s - alone_s
    print(
        f"{num_servers} servers, {num_groups} groups in {took_s:.1f} s: {cpu_s:.2f} s of CPU, "
        f"{alone_s:.2f} s of them the servers' in memory: the pool takes "
        f"{1e6 * cost_s / num_groups:.0f} us a group, {cost_s / took_s:.2%} of the step "
        f"(with the servers' part {cpu_s / took_s:.2%})"
    )


if __name__ == "__main__":
    parser = benchmark_parser(__doc__)
    parser.add_argument("--num-groups", type=int, default=10_000)
    parser.add_argument("--num-servers", type=int, default=64)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.num_groups, arguments.num_servers))
