"""`pluginctl reload`: kill the matching instances and start what is pinned now."""

import click

from supervisor.cli.client import quoted
from supervisor.cli.follow import carry_out, reload_options, wishes
from supervisor.cli.session import Session, read_mount, read_plugin, shared_options


@click.command("reload")
@click.argument("plugin_ref", metavar="[TYPE/NAME]", required=False)
@click.option("--plugin", metavar="NAME", help="Every mount of this plugin in the namespace.")
@click.option(
    "--mounts",
    metavar="A,B",
    multiple=True,
    help="These mounts of the namespace; may be given more than once.",
)
@click.option("--scope", type=click.Choice(["global"]), help="On every node of the cluster.")
@reload_options
@shared_options
@click.pass_obj
def command(
    session: Session,
    /,
    plugin_ref: str | None,
    plugin: str | None,
    mounts: tuple[str, ...],
    scope: str | None,
    **options: object,
) -> int:
    """Replace processes by what is pinned now.

    TYPE/NAME means the plugin's mounts in all namespaces; --plugin and --mounts stay in one. Everything is
    checked before anything is killed. The table shows for each mount what ran, what runs and how long
    it was down.
    """
    if sum((plugin_ref is not None, plugin is not None, bool(mounts))) != 1:
        raise click.UsageError("Say which mounts: one of TYPE/NAME, --plugin NAME or --mounts A,B.")
    options["scope"] = scope
    if plugin_ref is not None:
        if session.namespace:
            raise click.UsageError(
                f"{plugin_ref} means all namespaces; in one namespace: --plugin NAME -n {session.namespace}"
            )
        kind, name = read_plugin(plugin_ref)
        target = f"sys/plugins/reload/{quoted(kind)}/{quoted(name)}"
        return carry_out(session, session.daemon(), target, wishes(options))
    namespace = session.namespace or ""
    what: dict[str, object] = {"plugin": plugin}
    if mounts:
        places = [read_mount(session, path) for text in mounts for path in text.split(",") if path.strip()]
        if not places:
            raise click.UsageError("--mounts names no mount.")
        if len({namespace for namespace, _ in places}) > 1:
            raise click.UsageError("One reload of --mounts is in one namespace: call it once for each.")
        namespace = places[0][0]
        what = {"mounts": [path for _, path in places]}
    asked = wishes({**what, **options})
    return carry_out(session, session.daemon(namespace), "sys/plugins/reload/backend", asked)
