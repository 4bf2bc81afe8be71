"""``python -m regime_w score FILE``: scores rollouts again with another configuration."""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from regime_w.config import RewardConfig
from regime_w.piped_output import ending_with_the_reader
from regime_w.rescore import RescoreError, report, rescore_file

_OTHER_FUNCTIONS_KEYS = ("functions", "weights", "timeout_s")
"""Keys of ``[reward]`` about the trainer's other reward functions, which are not called here."""


@ending_with_the_reader()
def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 if the command line, configuration or file is invalid, or 130 after Ctrl-C."""
    arguments = vars(_parser().parse_args(argv))
    del arguments["command"]
    path, config_file = arguments.pop("file"), arguments.pop("config", None)
    try:
        config = RewardConfig.model_validate({**_read(config_file), **arguments})
        print(report(list(rescore_file(path, config))))
    except ValidationError as error:
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"])) or "configuration"
            print(f"regime_w: error: {key}: {problem['msg']}", file=sys.stderr)
        return 2
    except RescoreError as error:
        print(f"regime_w: error: {error}", file=sys.stderr)
        return 2
    except MemoryError:  # as of a file without line breaks
        print("regime_w: error: the file does not fit in memory", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("regime_w: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m regime_w", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser(
        "score",
        help="score a rollout file again and show what changes",
        description="Scores a rollout file (JSONL, plain or compressed) again, with Regime W alone. Answers are read from the completions; "
        "the file is left as it is. Every setting below may come from --config; flags win.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    score.add_argument("file", type=Path, metavar="FILE", help="rollouts: .jsonl, .gz or .zst")
    score.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="a run's config.toml, or [reward] alone"
    )
    for name, field in RewardConfig.model_fields.items():
        score.add_argument(f"--{name}", help=f"{field.description} [{field.default}]")
    return parser


def _read(config_file: Path | None) -> dict[str, Any]:
    """The ``[reward]`` section of a configuration file."""
    if config_file is None:
        return {}
    try:
        section = tomllib.loads(config_file.read_text(encoding="utf-8-sig")).get("reward", {})
    except OSError as error:
        raise RescoreError(f"--config {config_file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RescoreError(f"--config {config_file}: {error}") from error
    if not isinstance(section, dict):
        raise RescoreError(f"--config {config_file}: reward is not a section")
    return {key: value for key, value in section.items() if key not in _OTHER_FUNCTIONS_KEYS}


if __name__ == "__main__":
    sys.exit(main())
