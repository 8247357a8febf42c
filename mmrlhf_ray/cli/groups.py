"""Groups of commands: their help by headings, examples, algorithms by name, and the nearest to what was mistyped."""

import difflib
from collections.abc import Iterator
from typing import Any

from typer import Context
from typer.core import TyperGroup

from mmrlhf_ray.cli.examples import GROUPS, MEANT, epilog

HELP_SETTINGS = {"max_content_width": 120}
"""Help is as wide as the terminal, up to this."""


class Group(TyperGroup):
    """A group whose commands have examples."""

    def get_command(self, ctx: Context, cmd_name: str) -> Any:  # type: ignore[override]
        """The command of that name, with its examples; None where there is none."""
        found = super().get_command(ctx, cmd_name)
        if found is not None and found.epilog is None:
            path = [part.info_name for part in _contexts(ctx)][1:]
            found.epilog = epilog(" ".join([*filter(None, path), cmd_name]))
        return found

    def resolve_command(self, ctx: Context, args: list[str]) -> Any:  # type: ignore[override]
        """As typer's, but for the message where there is no such command."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        near = self.nearest(name)
        meant = " or ".join(f"`{ctx.command_path} {other}`" for other in near)
        ctx.fail(f"there is no command {name!r}; {f'did you mean {meant}?' if near else 'see --help'}")

    def nearest(self, name: str) -> list[str]:
        """Commands that may have been meant."""
        return difflib.get_close_matches(name, list(self.commands), n=2)


class RootGroup(Group):
    """`mmrlhf` itself."""

    def get_command(self, ctx: Context, cmd_name: str) -> Any:  # type: ignore[override]
        """A command, or the job of an algorithm."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            from mmrlhf_ray.cli.jobs import algorithm_command  # reads the configuration, which `--help` need not

            found = algorithm_command(cmd_name)
        return found

    def list_commands(self, ctx: Context) -> list[str]:  # type: ignore[override]
        """The commands; where a shell completes, algorithms as well."""
        from mmrlhf_ray.config.aliases import ALIASES

        names = super().list_commands(ctx)
        return [*names, *ALIASES] if ctx.resilient_parsing else names

    def nearest(self, name: str) -> list[str]:
        """Commands and algorithms that may have been meant."""
        from mmrlhf_ray.config.aliases import ALIASES

        lower = name.lower().replace("_", "-")
        if lower in MEANT or lower in (*self.commands, *ALIASES):
            return [MEANT.get(lower, lower)]
        return difflib.get_close_matches(lower, [*self.commands, *ALIASES], n=2)

    def format_commands(self, ctx: Context, formatter: Any) -> None:  # type: ignore[override]
        """Commands below headings; those that no heading names come last."""
        named = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in named)
        limit = formatter.width - 6 - max(map(len, self.commands))
        for heading, names in {**GROUPS, "More": others}.items():
            rows = [(name, self.commands[name].get_short_help_str(limit)) for name in names if name in self.commands]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
        with formatter.section("An algorithm by its name, in the place of the job"):
            formatter.write_dl(list(_algorithms()))


def _algorithms() -> Iterator[tuple[str, str]]:
    yield "as ppo", "grpo, dr-grpo, rloo, reinforce-pp, dapo, gspo, cispo."
    yield "as preference", "dpo, ipo, kto, orpo, simpo, bco, mpo."


def _contexts(ctx: Context) -> list[Any]:
    """From the outermost to this one."""
    found: list[Any] = [ctx]
    while found[0].parent is not None:
        found.insert(0, found[0].parent)
    return found
