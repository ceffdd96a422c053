"""Commands of several verbs: the word that chooses one, and the page that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tyro

from panoseg.errors import ConfigError

Verbs = Mapping[str, tuple[Callable[..., None], str]]
"""What each verb calls, and what it does in a line."""


def run_verb(
    command: str, verbs: Verbs, arguments: Sequence[str], about: str, example: str
) -> None:
    """Call what the first argument names, with its options from the others; without one, or for
    --help, list the verbs.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(command, verbs, about, example))
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in verbs:
        raise ConfigError(
            f"panoseg {command} {verb}",
            f"one of {', '.join(verbs)}",
            f"see panoseg {command} --help",
        )
    config = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone)
    tyro.cli(verbs[verb][0], prog=f"panoseg {command} {verb}", args=rest, config=config)


def _usage(command: str, verbs: Verbs, about: str, example: str) -> str:
    width = max(map(len, verbs))
    rows = "\n".join(f"  {verb:<{width}}  {line}" for verb, (_, line) in verbs.items())
    return (
        f"{about}\n\nusage: panoseg {command} VERB [options]      panoseg {command} VERB --help"
        f" tells more\n\n{rows}\n\nexample: {example}\n"
    )
