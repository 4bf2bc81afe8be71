"""Speed of the reward: groups per second by number of words and arms, and answer extraction by length of text.

Run it alone: ``python -m benchmarks.reward``. Everything runs on one core; each row is the median of
several repetitions with their spread.
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.arguments import benchmark_parser
from regime_w import ArmOutput, extract_answer, reward_group
from regime_w.worked_steps.parsing import parse_equations

NUM_REPETITIONS = 7
MIN_REPETITION_S = 0.2


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Median seconds per call, and the spread (largest - smallest) as a share of the median."""
    num_calls = 1
    while True:
        started = time.perf_counter()
        for _ in range(num_calls):
            call()
        elapsed = time.perf_counter() - started
        if elapsed > MIN_REPETITION_S:
            break
        num_calls = max(num_calls * 2, int(num_calls * MIN_REPETITION_S / max(elapsed, 1e-6)))
    times = []
    for _ in range(NUM_REPETITIONS):
        started = time.perf_counter()
        for _ in range(num_calls):
            call()
        times.append((time.perf_counter() - started) / num_calls)
    median = statistics.median(times)
    return median, (max(times) - min(times)) / median


def solution(rng: random.Random, num_words: int) -> str:
    """Worked steps of about fifteen words each, as instruct models write them."""
    lines, words, total = [], 0, rng.randint(2, 60)
    while words < num_words - 15:
        number = rng.randint(2, 40)
        line = (
            f"Next we take the {total} pens of the box and add {number} more pens, "
            f"so {total} + {number} = {total + number} pens."
        )
        total += number
        words += len(line.split())
        lines.append(line)
    return "\n".join([*lines, f"#### {total}"])


def group(num_arms: int, num_words: int) -> list[ArmOutput]:
    rng = random.Random(0)
    half = num_arms // 2
    names = [f"wolfram_{i}" for i in range(half)] + [f"maudlin_{i}" for i in range(half)]
    return [ArmOutput.from_text(name, solution(rng, num_words)) for name in names]


def score(texts: list[tuple[str, str]]) -> object:
    """Do what the trainer does with a group: read the answers, score and reward them."""
    outputs = [ArmOutput.from_text(name, text) for name, text in texts]
    return reward_group(outputs, "#### 7")


def main() -> None:
    benchmark_parser(__doc__).parse_args()
    print(f"{'arms':>5}{'words':>7}{'groups/s':>10}{'µs/(arm·word)':>15}{'spread':>8}")
    for num_arms, num_words in [
        (8, 40), (8, 150), (8, 400), (8, 1500), (2, 150), (16, 150), (32, 150), (64, 150),
    ]:  # fmt: skip
        texts = [(o.arm_name, o.full_text) for o in group(num_arms, num_words)]
        median, spread = seconds(partial(score, texts))
        each = median * 1e6 / (num_arms * num_words)
        print(f"{num_arms:>5}{num_words:>7}{1 / median:>10.0f}{each:>15.2f}{spread:>8.0%}")

    kinds: dict[str, Callable[[int], str]] = {
        "prose": lambda n: ("the cat has pens and so on " * (n // 27 + 1))[: n - 7] + " #### 7",
        "no marker": lambda n: ("he has 12 pens and 7 cats, " * (n // 27 + 1))[:n],
        "digits": lambda n: "9" * n,
        "braces": lambda n: "\\boxed{" * (n // 7),
        "markers": lambda n: "####" * (n // 4),
        "equations": lambda n: ("12 + 7 = 19 pens\n" * (n // 17 + 1))[:n],
        "equals": lambda n: "1=" * (n // 2),
    }
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    for name, read in (("extract_answer", extract_answer), ("parse_equations", parse_equations)):
        print(f"\n{name}: ms by length of text, and the exponent of growth from 1 kB to 1 MB")
        print(f"{'text':>12}" + "".join(f"{size // 1000:>9} kB" for size in sizes) + f"{'exp':>7}")
        for kind, make in kinds.items():
            times = [seconds(partial(read, make(size)))[0] for size in sizes]
            growth = math.log(times[-1] / times[0]) / math.log(sizes[-1] / sizes[0])
            print(f"{kind:>12}" + "".join(f"{t * 1e3:>12.3f}" for t in times) + f"{growth:>7.2f}")


if __name__ == "__main__":
    main()
