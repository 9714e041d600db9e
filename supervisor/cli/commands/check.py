"""`pluginctl check` and `plugind check`: are these files good, without any daemon."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from supervisor.cli.render import plural, visible
from supervisor.cli.session import Session, shared_options

if TYPE_CHECKING:
    from supervisor.domain.catalog import Catalog, Launch
    from supervisor.domain.errors import Fault

FAULTY: Final = 2


@click.command("check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@shared_options
@click.pass_obj
def command(session: Session, files: tuple[Path, ...]) -> int:
    """Check catalogs (files, or folders of *.yaml) and plugind.yaml, and report every fault.

    A file whose name begins with plugind is taken for plugind.yaml: the catalog that it names is checked too,
    with its defaults, unless catalogs are given. No daemon is needed, and no process is touched.
    """
    return check_files(files, as_json=session.as_json)


def check_files(
    files: Sequence[Path], *, as_json: bool = False, lacks: "Callable[[Launch], str | None] | None" = None
) -> int:
    """Write a line for each good file to stdout and one for each fault to stderr; the exit status.

    `lacks` says what of a launch this machine can give nobody.
    """
    good, faults = _checked(files, lacks or (lambda _: None))
    if as_json:
        document = {"good": good, "faults": [asdict(fault) for fault in faults]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{visible(f'{file}: {summary}')}\n" for file, summary in good.items()))
        sys.stderr.write("".join(f"{visible(str(fault))}\n" for fault in faults))
    return FAULTY if faults else 0


def _checked(
    files: Sequence[Path], lacks: "Callable[[Launch], str | None]"
) -> "tuple[dict[str, str], list[Fault]]":
    """What is good, with a word about it, and every fault of what is not."""
    from supervisor.domain.errors import CatalogInvalid  # noqa: PLC0415 - heavy, and only for this command
    from supervisor.files.load import Defaults, load_catalog  # noqa: PLC0415 - the same
    from supervisor.files.settings import load_settings  # noqa: PLC0415 - the same

    good: dict[str, str] = {}
    faults: list[Fault] = []
    defaults = Defaults()
    named: list[Path] = []
    for file in filter(_is_settings, files):
        try:
            settings, defaults = load_settings(file)
        except CatalogInvalid as error:
            faults += error.faults
        else:
            good[str(file)] = "good"
            named.append(Path(settings.catalog))
    for file in [file for file in files if not _is_settings(file)] or named:
        try:
            catalog = load_catalog(file, defaults)
        except CatalogInvalid as error:
            faults += error.faults
        else:
            lacking = _lacking(catalog, lacks)
            faults += lacking
            if not lacking:
                good[str(file)] = f"{_summary(catalog)}: good"
    return good, faults


def _lacking(catalog: "Catalog", lacks: "Callable[[Launch], str | None]") -> "list[Fault]":
    from supervisor.domain.errors import Fault  # noqa: PLC0415 - as above

    return [
        Fault(spec.mark.file, spec.mark.line, spec.mark.column, f"cannot run {spec.key}: {why}")
        for spec in catalog.mounts.values()
        if (why := lacks(spec.launch)) is not None
    ]


def _is_settings(file: Path) -> bool:
    return file.name.startswith("plugind") and not file.is_dir()


def _summary(catalog: "Catalog") -> str:
    versions = sum(len(plugin.versions) for plugin in catalog.plugins.values())
    namespaces = len({key.namespace for key in catalog.mounts})
    return (
        f"{plural(len(catalog.plugins), 'plugin')}, {plural(versions, 'version')}, "
        f"{plural(len(catalog.mounts), 'mount')} in {plural(namespaces, 'namespace')}"
    )
