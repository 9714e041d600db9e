"""Versions in the text of the catalog: one is added, with its plugin where that is new, or taken out."""

from supervisor.domain.errors import BadRequest, Conflict
from supervisor.domain.names import PluginRef, is_name, shortened
from supervisor.domain.registering import Registered, check_removable
from supervisor.files import splices
from supervisor.files.edit import Change, Edit, Editor, Flat, Texts, at, flat, text_of, tree
from supervisor.files.sources import Source
from supervisor.files.splices import CannotSplice
from supervisor.files.yaml import Mapping


def add_version(editor: Editor, ref: PluginRef, version: str, added: Registered) -> Edit:
    """Add a version to those of `ref`, which comes to be where it is not there yet.

    Where just that version is there already nothing is written. Raises Refused.
    """
    deed = f"add {shortened(version)} to {ref}"
    if not is_name(version):
        raise BadRequest(f"cannot {deed}: that cannot name a version")

    def make(texts: Texts) -> Change | None:
        value = _as_yaml(added)
        if ref not in texts.catalog.plugins:
            return _new_plugin(texts, ref, splices.in_braces([(version, value)]))
        plugin, place = texts.found(ref, deed)
        path = (*place.path, "versions", version)
        then = _then(path, value)
        if version in plugin.versions:
            if {key: text for key, text in flat(tree(place.source)) if key[: len(path)] == path} == then:
                return None
            raise Conflict(f"cannot {deed}: there is one of that name that is another one: remove it first")
        versions = at(place.node, ("versions",))
        if not isinstance(versions, Mapping):
            raise CannotSplice("it has no versions that could be added to")
        entry = f"{splices.quoted(version)}: {value}"
        return Change(place.source, splices.last_entry(place.text, versions, entry), path, then)

    change = editor.carry_out(ref, deed, make)
    if change is None:
        return Edit("", 0, version, version)
    return Edit(change.source.path, change.splice.line, None, version)


def remove_version(editor: Editor, ref: PluginRef, version: str) -> Edit:
    """Take a version out that is not pinned, and that no mount has for its own. Raises Refused.

    With the only one goes the plugin, where there is nothing else that somebody wrote about it.
    """
    deed = f"remove {shortened(version)} from {ref}"

    def make(texts: Texts) -> Change:
        plugin, place = texts.found(ref, deed)
        check_removable(texts.catalog, plugin, version)
        path = (*place.path, "versions", version)
        root = tree(place.source)
        while path:
            mapping = at(root, path[:-1])
            if isinstance(mapping, Mapping) and len(mapping.entries) > 1:
                return Change(place.source, splices.no_entry(place.text, mapping, path[-1]), path, {})
            path = path[:-1]  # a mapping without an entry would be left
        raise CannotSplice("it is all that there is in the file")

    change = editor.carry_out(ref, deed, make)
    assert change is not None  # noqa: S101 - for mypy: there is always one
    return Edit(change.source.path, change.splice.line, version, None)


def _new_plugin(texts: Texts, ref: PluginRef, versions: str) -> Change:
    """Beside those of its type, else beside the other types: in the first file that has them."""
    plugin = splices.in_braces([("versions", versions)])
    places = [
        (("plugins", ref.type), ref.name, plugin),
        (("plugins",), ref.type, splices.in_braces([(ref.name, plugin)])),
    ]
    for parent, name, value in places:
        for source in texts.sources:
            mapping = at(tree(source), parent)
            if isinstance(mapping, Mapping):
                splice = splices.last_entry(text_of(source), mapping, f"{splices.quoted(name)}: {value}")
                path = (*parent, name)
                return Change(source, splice, path, _then(path, value))
    raise CannotSplice("no file has plugins yet")


def _then(path: tuple[str, ...], value: str) -> Flat:
    """What stands at `path` once `value`, which is YAML, does."""
    alone = flat(tree(Source("", f"{{x: {value}}}")))
    return {(*path, *inner[1:]): text for inner, text in alone if inner}


def _as_yaml(added: Registered) -> str:
    entries = [("command", splices.quoted(added.command))]
    if added.sha256:
        entries.append(("sha256", splices.quoted(added.sha256)))
    if added.args:
        entries.append(("args", splices.in_brackets(added.args)))
    if added.env:
        entries.append(("env", splices.in_braces((name, splices.quoted(value)) for name, value in added.env)))
    return splices.in_braces(entries)
