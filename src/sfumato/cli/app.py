"""The typer application, its group of commands, and the text that ``sfumato`` alone prints."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from sfumato.core.errors import UserError

ORDER = (
    "demo",
    "inspect",
    "recipes",
    "train",
    "sweep",
    "fit-prior",
    "evaluate",
    "sample",
    "reconstruct",
    "encode",
    "decode",
    "interpolate",
    "impute",
    "report",
    "explore",
    "serve",
    "export",
    "import",
    "cite",
    "info",
    "doctor",
    "units",
    "claims",
    "verify-resume",
)
WELCOME = f"""sfumato: variational autoencoders on your own data.

  sfumato inspect photos/           what is in there, and what would be done with it
  sfumato train   photos/           train, evaluate, report
  sfumato explore runs/photos       walk through the latent space in your browser
  sfumato sample  runs/photos       new images from the trained model
  sfumato demo                      all of it on images that come with sfumato

Commands: {" ".join(ORDER)}
`sfumato COMMAND -h` shows examples."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(TyperGroup):
    """The commands in the order in which they are used, with a sentence for one that does not exist."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of ``ORDER``."""
        return sorted(self.commands, key=ORDER.index)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or say which one was meant."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, n=1, cutoff=0.5)
            meant = f"Did you mean '{near[0]}'?" if near else f"Commands: {' '.join(ORDER)}."
            raise UserError(f"no command '{args[0]}'.  {meant}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(name: str, *examples: str) -> Callable[[Command], Command]:
    """Register a command whose help ends with examples."""
    epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
    return app.command(name, epilog=epilog)


def show_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        from sfumato import __version__

        typer.echo(f"sfumato {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from; goes with every command.")
    ] = False,
) -> None:
    """Variational autoencoders on your own data: inspect, train, evaluate, sample."""
    if ctx.invoked_subcommand is None:
        typer.echo(WELCOME)
