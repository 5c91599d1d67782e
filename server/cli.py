"""The command `verbatim`. Its --help is the reference; docs/configuration.md repeats it."""

from __future__ import annotations

import os
import sys
from datetime import date
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.main
from typer.core import TyperGroup

from sealed.failures import BundleError, SealedFailure
from server.access.keys import new_key
from server.access.terms import parse_day
from server.client.complete import complete
from server.commands.check import check
from server.commands.checksums import checksums
from server.commands.health import health
from server.commands.init import init
from server.commands.journal import journal
from server.commands.models import models
from server.commands.replay import replay
from server.config.directories import models_of, sharing_memory
from server.config.loading import Settings, config_file, load_settings, settings_of
from server.config.values import socket_path
from server.engine.served import problem_of
from server.errors import ConfigurationError, EngineFailed
from server.observe.versions import versions
from server.process.control import ask

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The file; default: VERBATIM_CONFIG, ./models.yaml, or the built-in model."
    ),
]

COMMANDS = "verbatim.commands"  # the entry points of the packages above this one: a function or a typer.Typer


class OneParagraph(TyperGroup):
    """Commands of this package and others, and one paragraph instead of a traceback, whichever it is of.

    Exit code 1 for a bundle that is not as it should be and for an engine that does not start, 2 for
    everything else that can be mended.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        self._load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name):
            self._load(point.name)
        return super().list_commands(ctx)

    def _load(self, name: str) -> None:
        """A command of another package, when it is asked for: one that brings much, or lacks something, costs
        the others nothing."""
        for point in entry_points(group=COMMANDS, name=name) if name not in self.commands else ():
            made = point.load()
            if not isinstance(made, typer.Typer):
                app = typer.Typer(add_completion=False, rich_markup_mode=None)
                app.command(name)(made)
                made = app
            self.commands[name] = typer.main.get_command(made)
            self.commands[name].name = name

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ConfigurationError, EngineFailed, SealedFailure) as failure:
            print(f"verbatim: {failure.message}", file=sys.stderr)
            raise typer.Exit(1 if isinstance(failure, BundleError | EngineFailed) else 2) from None


# No rich markup: the help is plain text, the same on a terminal, in a pipe and in the documentation.
cli = typer.Typer(
    name="verbatim",
    cls=OneParagraph,
    help="Text completions on your own hardware, to the letter of the hosted endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys = typer.Typer(help="API keys.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)
cli.add_typer(keys, name="keys")


@cli.command()
def serve(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIRECTORY...]", help="Models to serve, without a models.yaml."),
    ] = None,
    config: Config = None,
    model_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="Serve each model in this folder; `verbatim reload` finds new ones."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, or unix:PATH.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer requests, on the same engines.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster whose nodes run the engines; `auto`: this node's."),
    ] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="File of `verbatim keys new`.")] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="How long running requests may finish after SIGTERM, s.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Least level that is logged.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="A line as text, or as JSON.")] = None,
) -> None:
    """Start the server."""
    overrides = {
        "host": host,
        "port": port,
        "workers": workers,
        "cluster": cluster,
        "api_keys_file": api_keys_file,
        "drain_timeout_s": drain_timeout,
        "log_level": log_level,
        "log_format": log_format,
    }

    if (directories or model_dir) and config:
        raise ConfigurationError(
            "give either --config or model directories: a configuration names its models itself."
        )

    def load() -> Settings:
        if not (directories or model_dir):
            return load_settings(config, overrides, os.environ)
        keys = models_of(directories or [], [model_dir] if model_dir else [], problem_of)
        settings = settings_of(keys, overrides, os.environ)
        if len(settings.models) == 1 or settings.workers > 1 or settings.cluster:
            return settings
        return settings_of(sharing_memory(keys), overrides, os.environ)

    settings = load()
    # Late: the application brings half a second of imports that no other command needs.
    from server.process.serve import serve as run

    run(settings, None if directories or model_dir else config_file(config, os.environ), load)


@cli.command()
def node(
    join: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The head's address; without it, this is the head."),
    ] = None,
    port: Annotated[int, typer.Option(help="The head's port, if this is the head.")] = 6379,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Further options of `ray start`.")
    ] = None,
) -> None:
    """Run this machine as a node of a Ray cluster, until SIGTERM or Ctrl-C (docs/cluster.md).

    It runs `ray start`, and contacts only the other nodes.
    """
    # Late: as serve.
    from server.process.node import become_node

    become_node(join or "", port, more or [])


@cli.command()
def reload(
    config: Config = None,
    port: Annotated[int | None, typer.Option(help="The server's port; default: the configuration's.")] = None,
) -> None:
    """Make the running server read its configuration again; no request is lost.

    Exit code 0 when the new configuration is in use, 1 when the server refuses it and goes on with the old
    one, or an engine has not started; 2 when there is no such server. SIGHUP to the server does the same.
    """
    where: int | Path | None = port
    if where is None:
        settings = load_settings(config, {}, os.environ)
        where = socket_path(settings.host) or settings.port
    done, message = ask(where)
    if not done:
        print(f"verbatim: {message}", file=sys.stderr)
        raise typer.Exit(1)
    print(message)


cli.command()(check)
cli.command()(checksums)
cli.command()(init)


cli.command()(models)
cli.command()(complete)
cli.command()(health)
journal.command()(replay)
cli.add_typer(journal, name="journal")


@keys.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(help="Name of the key, for logs, metrics and allowed_keys.")],
    file: Annotated[Path, typer.Option(help="File to append to; created if missing.")] = Path("api-keys.txt"),
    expires: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day, UTC.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="infer|admin", help="What the key may do; may be repeated. [its group's, or infer]"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Allow only this model or adapter; may be repeated."),
    ] = None,
) -> None:
    """Make a key: it is printed once, and its SHA-256 is appended to the file.

    A running server reads the changed file. To revoke the key, delete its line.
    """
    print(new_key(name, file, _day(expires), role or (), model or ()))
    print(f"Keep it: only its SHA-256 is in {file}.", file=sys.stderr)


def _day(text: str | None) -> date | None:
    try:
        return parse_day(text) if text else None
    except ValueError as error:
        raise ConfigurationError(f"--expires: {error}.") from None


@cli.command()
def version() -> None:
    """Show the versions of this server and of its main dependencies."""
    for name, number in versions().items():
        print(f"{name} {number}")


def main() -> None:
    cli()
