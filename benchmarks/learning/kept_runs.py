"""A folder that keeps a benchmark's runs from one call to the next; all of its runs have the same settings."""

import argparse
import json
from pathlib import Path

_FILE = "settings.json"


def folder_of_runs(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, *names: str
) -> Path:
    """The folder of ``--folder``; the program exits with code 2 if the runs there have other settings than these.

    Args:
        parser: Reports what is wrong.
        arguments: They include ``folder``, and ``model`` if the benchmark has one.
        names: The arguments that must be the same for all runs, since the name of a run's file does not show them.
    """
    folder: Path = arguments.folder
    model: Path | None = getattr(arguments, "model", None)
    if model is not None and not (model / "config.json").is_file():
        parser.error(
            f"--model {model}: no model is there; python -m trainer tiny-model --output {model} makes one"
        )
    given = {name: str(getattr(arguments, name)) for name in names}
    path = folder / _FILE
    if path.is_file():
        kept = json.loads(path.read_text())
        other = [
            f"--{name} {kept.get(name)} and not {value}"
            for name, value in given.items()
            if kept.get(name) != value
        ]
        if other:
            parser.error(f"the runs in {folder} have {', '.join(other)}; give another --folder")
    elif folder.is_dir() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty and has no {_FILE} of runs; give another --folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(given, indent=1) + "\n")
    return folder
