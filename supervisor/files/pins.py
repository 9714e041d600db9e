"""The pin of a plugin in the text of the catalog: set, taken out, put back."""

from collections.abc import Callable

from supervisor.domain.catalog import Plugin
from supervisor.domain.errors import BadRequest, Conflict
from supervisor.domain.names import PluginRef, is_name, shortened
from supervisor.files import splices
from supervisor.files.edit import Change, Edit, Editor, Texts
from supervisor.files.faults import Faults
from supervisor.files.fields import child
from supervisor.files.yaml import Scalar

Refuse = Callable[[Edit], None]
"""May refuse what is about to be written."""


def set_pin(editor: Editor, ref: PluginRef, version: str, refuse: Refuse = lambda _: None) -> Edit:
    """Pin `ref` to `version`. Raises Refused."""
    return _pin(editor, ref, f"pin {ref}", lambda _: version, refuse)


def remove_pin(editor: Editor, ref: PluginRef, refuse: Refuse = lambda _: None) -> Edit:
    """Leave `ref` without a pin, where every mount of it has a version of its own. Raises Refused."""
    return _pin(editor, ref, f"remove the pin of {ref}", lambda _: None, refuse)


def undo_pin(editor: Editor, ref: PluginRef, old: str | None, new: str | None) -> Edit:
    """Put `old` back in the place of `new`. Raises Refused; Conflict where another one stands there."""
    deed = f"undo the pin of {ref}"

    def back(plugin: Plugin) -> str | None:
        if plugin.pin != new:
            raise Conflict(
                f"cannot {deed}: it is {plugin.pin or 'none'} now, and {new or 'none'} is what plugind "
                "wrote last: pin the version that you want"
            )
        return old

    return _pin(editor, ref, deed, back, lambda _: None)


def _pin(
    editor: Editor, ref: PluginRef, deed: str, choose: Callable[[Plugin], str | None], refuse: Refuse
) -> Edit:
    made: list[Edit] = []

    def make(texts: Texts) -> Change | None:
        plugin, place = texts.found(ref, deed)
        version = choose(plugin)
        if version is not None:
            _check(plugin, version)
        pin = child(place.node, "pin")
        line = pin.line if pin is not None else place.node.entries[0][0].line
        made.append(Edit(place.source.path, line, plugin.pin, version))
        if not made[-1].is_written:
            return None
        if version is None:
            splice = splices.no_entry(place.text, place.node, "pin")
        elif isinstance(pin, Scalar):
            splice = splices.scalar(place.text, pin, version)
        else:
            splice = splices.first_entry(place.text, place.node, f"pin: {splices.quoted(version)}")
        path = (*place.path, "pin")
        return Change(place.source, splice, path, {} if version is None else {path: version})

    editor.carry_out(ref, deed, make, lambda: refuse(made[-1]))
    return made[-1]


def _check(plugin: Plugin, version: str) -> None:
    if version not in plugin.versions or not is_name(version):
        near = Faults().near(version, plugin.versions)
        raise BadRequest(f'cannot pin {plugin.ref} to "{shortened(version)}": it has no such version{near}')
