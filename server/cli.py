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
from server.config.loading import CONFIG_HELP, Settings, config_file, load_settings, settings_of
from server.config.values import socket_path
from server.engine.served import problem_of
from server.errors import ConfigurationError, EngineFailed
from server.observe.versions import versions
from server.process.control import ask

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Config = Annotated[
    Path | None,
    typer.Option("--config", help=CONFIG_HELP),
]

COMMANDS = "verbatim.commands"  # entry points of the packages above this one: a function or a typer.Typer


class OneParagraph(TyperGroup):
    """The commands of this package and of others. A failure that the user can mend is printed
    as one paragraph.

    Exit code 1: a bundle is damaged, or an engine does not start. 2: every other failure of this kind.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        self._load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name):
            self._load(point.name)
        return super().list_commands(ctx)

    def _load(self, name: str) -> None:
        """Import a command of another package only when it is used: slow or missing imports of one command
        do not affect the others."""
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
    help="Serve the hosted completions API from your own hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys = typer.Typer(help="Make API keys.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)
cli.add_typer(keys, name="keys")


@cli.command()
def serve(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIRECTORY...]", help="Model directories to serve without a models.yaml."),
    ] = None,
    config: Config = None,
    model_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="Serve every model in this folder; `verbatim reload` adds new ones."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, or unix:PATH.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes that answer requests. They share the engines.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Address of the Ray cluster that runs the engines; `auto`: this node's."
        ),
    ] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="API keys, a file that `verbatim keys new` writes.")
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="Seconds that running requests have to finish after SIGTERM.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Lowest level that is logged.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="Log lines as text or as JSON.")] = None,
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
            "give either --config or model directories, not both: the configuration file lists its own"
            " models."
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
    # Imported late: the application takes half a second to import, and no other command needs it.
    from server.process.serve import serve as run

    run(settings, None if directories or model_dir else config_file(config, os.environ), load)


@cli.command()
def node(
    join: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address of the head node. Without it, this machine is the head."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on, if this machine is the head.")] = 6379,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Further options of `ray start`.")
    ] = None,
) -> None:
    """Run this machine as a node of a Ray cluster, until SIGTERM or Ctrl-C (docs/cluster.md).

    It runs `ray start`, set up so that Ray connects to the other nodes and to nothing else.
    """
    # Imported late, as in serve.
    from server.process.node import become_node

    become_node(join or "", port, more or [])


@cli.command()
def reload(
    config: Config = None,
    port: Annotated[int | None, typer.Option(help="The server's port. Default: the configuration's.")] = None,
) -> None:
    """Tell the running server to read its configuration again. No request is lost.

    Exit code 0: the new configuration is in use. 1: the server refused it and keeps the old one, or an engine
    did not start. 2: no such server runs. SIGHUP to the server has the same effect.
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
    name: Annotated[str, typer.Argument(help="Name of the key, as logs, metrics and allowed_keys show it.")],
    file: Annotated[Path, typer.Option(help="File to append the key to. It is created if missing.")] = Path(
        "api-keys.txt"
    ),
    expires: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day on which the key is valid, UTC.")
    ] = None,
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
    group: Annotated[str | None, typer.Option(metavar="NAME", help="Its group in key_groups.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Its limit; 0: none.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Its limit; 0: none.")] = None,
) -> None:
    """Make a key: print it once, and append its SHA-256 to the file.

    A running server reads the changed file by itself. Delete the line to revoke the key.
    """
    more = {
        "group": group,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    print(new_key(name, file, _day(expires), role or (), model or (), more))
    print(f"Keep the key: {file} has only its SHA-256.", file=sys.stderr)


def _day(text: str | None) -> date | None:
    try:
        return parse_day(text) if text else None
    except ValueError as error:
        raise ConfigurationError(f"--expires: {error}.") from None


@cli.command()
def version() -> None:
    """Show the versions of this server and of the packages that it runs on."""
    for name, number in versions().items():
        print(f"{name} {number}")


def main() -> None:
    cli()
