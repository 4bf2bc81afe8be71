"""Shell completion: a script that completes commands, their flags, the server's flags and the presets."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

from pydantic import BaseModel

from inference_server.wire.settings.errors import known_keys
from inference_server.wire.settings.model import positionals
from inference_server.wire.settings.serve import ServeConfig
from inference_server.wire.settings.sources import presets
from trainer.config.run import SHORT_FLAGS
from trainer.errors import UsageError

Shell = Literal["bash", "zsh"]
FLAG = "--print-completion"

# zsh can run bash's completion functions. compinit is skipped if it has run already, because it is slow.
_ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\nautoload -Uz bashcompinit && bashcompinit\n"
_BASH = """\
{function}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=""
  COMPREPLY=()
  if [[ ${{COMP_WORDS[COMP_CWORD-1]}} == --config ]]; then words="{presets}"
{branches}
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F {function} {program}
"""
_COMMANDS = """\
  elif [[ $COMP_CWORD -eq 1 ]]; then words="{commands} --help --version"
  elif [[ $word == -* ]]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac\
"""


def completion(commands: Mapping[str, Iterable[str]], arguments: Sequence[str]) -> str:
    """The script that ``--print-completion SHELL`` prints; it completes ``regime-w`` and ``regime-w-server``.

    Args:
        commands: The flags of each command.
        arguments: What follows the flag: the name of the shell.

    Raises:
        UsageError: There is no completion for this shell.
    """
    if len(arguments) != 1 or arguments[0] not in get_args(Shell):
        raise UsageError(f"{FLAG}: takes one of {', '.join(get_args(Shell))}")
    cases = [f'      {name}) words="{" ".join(flags)}" ;;' for name, flags in commands.items()]
    # Only those of vLLM's flags that our settings have too, because vLLM takes long to import.
    server = ["--version", *flags_of(ServeConfig, without={"api_key"}, kebab_case=True)]
    return "".join(
        [
            _ZSH if arguments[0] == "zsh" else "",
            _script(
                "regime-w", _COMMANDS.format(commands=" ".join(commands), cases="\n".join(cases))
            ),
            _script(
                "regime-w-server",
                f'  elif [[ $word == -* ]]; then words="{" ".join(server)}"',
            ),
        ]
    )


def _script(program: str, branches: str) -> str:
    return _BASH.format(
        function=re.sub(r"\W", "_", f"_{program}"),
        program=program,
        presets=" ".join(presets()),
        branches=branches,
    )


def flags_of(
    model: type[BaseModel], *, without: Collection[str] = (), kebab_case: bool = False
) -> list[str]:
    """Every flag of a program or command with these settings, as its help spells them.

    Args:
        model: The settings.
        without: Keys that are not flags.
        kebab_case: Whether the program spells flags with ``-`` instead of ``_``.
    """
    keys = [*known_keys(model)]
    tables = {key.rpartition(".")[0] for key in keys}
    keys = [key for key in keys if key not in {*tables, *positionals(model), *without}]
    keys += [short for short, key in SHORT_FLAGS.items() if key in keys]
    spelt = [key.replace("_", "-") if kebab_case else key for key in keys]
    return ["--config", "--help", *(f"--{key}" for key in spelt)]
