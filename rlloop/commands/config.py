"""`rlloop config`: a preset resolved, or the reference of all keys."""

from __future__ import annotations

from typing import Annotated

import typer


def run(
    preset: Annotated[str, typer.Argument(help="A preset's name or a YAML file.")] = "mini",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, as for a run.")
    ] = None,
    as_reference: Annotated[
        bool, typer.Option("--reference", help="Print every key with type, bounds, default and meaning, as markdown.")
    ] = False,
) -> None:
    """Prints a configuration resolved, every key of it, as YAML that --config reads again.

    Examples: rlloop config paper seed=3 > mine.yaml

    rlloop config --reference > docs/configuration.md
    """
    if as_reference:
        from rlloop.config.reference import reference

        print(reference(), end="")
        return
    import yaml

    from rlloop.config import load

    print(yaml.safe_dump(load(preset, overrides).model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
