"""start, stop and restart differ in one word."""

import click

from supervisor.cli.client import LONG, quoted_path
from supervisor.cli.follow import SOME_FAILED, result_trouble, results_table
from supervisor.cli.progress import BAD
from supervisor.cli.render import word
from supervisor.cli.session import Session, read_mount


def change_mount(session: Session, verb: str, mount: str) -> int:
    """Ask the daemon to `verb` one mount and show what came of it; the exit status."""
    namespace, path = read_mount(session, mount)
    answer = session.daemon(namespace).ask("POST", f"supervisor/{verb}/{quoted_path(path)}", quiet_for=LONG)
    session.warn(answer)
    has_failed = word(answer.data.get("result")) in BAD or answer.status >= 400  # noqa: PLR2004 - HTTP
    if session.as_json:
        session.write_json(answer.data)
    else:
        look = session.look()
        session.write(results_table([answer.data], look))
        if has_failed:
            session.write(result_trouble(answer.data, look))
    return SOME_FAILED if has_failed else 0


MOUNT = click.argument("mount", metavar="[NS:]MOUNT")
