"""`namespaces:` of the catalog: which mounts run what, and that no two of them meet."""

from typing import Any, Final

from supervisor.domain.addresses import Taken, parsed
from supervisor.domain.catalog import MountSpec
from supervisor.domain.errors import BadRequest
from supervisor.domain.names import NAME_RULE, PLUGIN_TYPES, ROOT, MountKey, Namespace, PluginRef, shortened
from supervisor.files import fields as f
from supervisor.files.faults import Faults, Page
from supervisor.files.layers import SETTINGS, Layer
from supervisor.files.listeners import probes_of, says_nothing
from supervisor.files.plugins import PluginReader, VersionDraft, version_name
from supervisor.files.yaml import Mapping, Node, Scalar

_LONGEST_FILE_NAME: Final = 200
"""Log files are named after namespace and mount; NAME_MAX is 255, and endings are added."""
_MOST_NAMESPACES: Final = 20_000


def _plugin_ref(page: Page, node: Node) -> PluginRef:
    value = f.text(page, node)
    try:
        return PluginRef.parse(value)
    except BadRequest as error:
        raise f.Wrong(
            f'"{shortened(value)}" is no plugin: write TYPE/NAME, TYPE one of {", ".join(PLUGIN_TYPES)}'
        ) from error


def _as_it_is(_page: Page, node: Node) -> Node:
    return node


_MOUNT: Final[f.Table] = {**SETTINGS, "plugin": _plugin_ref, "version": version_name}
_NAMESPACE: Final[f.Table] = {"mounts": _as_it_is}


class MountReader:
    """Takes the `namespaces` of one file after the other; what they are together is in `mounts`."""

    def __init__(self, faults: Faults, plugins: PluginReader) -> None:
        self._faults = faults
        self._plugins = plugins
        self._drafts = plugins.drafts
        self._places: dict[Namespace, dict[str, tuple[Page, Scalar]]] = {}
        self._listening: Taken[tuple[MountKey, str]] = Taken()
        self._plugin_names: list[str] | None = None
        self.mounts: dict[MountKey, MountSpec] = {}
        self.namespaces: set[Namespace] = {ROOT}

    def take(self, page: Page, node: Node) -> None:
        spelled: dict[Namespace, Scalar] = {}
        for key, value in f.entries(page, node, "namespaces"):
            namespace = self._namespace(page, key)
            if namespace is None:
                continue
            first = spelled.setdefault(namespace, key)
            if first is not key:
                page.fault(key, f"namespace {namespace} is already written in line {first.line}")
            self._add_namespace(page, key, namespace)
            body = f.read(page, value, f.section(f"namespace {namespace}", _NAMESPACE))
            if body and "mounts" in body:
                f.read(page, body["mounts"], self._take_mounts(namespace))

    def _add_namespace(self, page: Page, key: Scalar, namespace: Namespace) -> None:
        # what is there already is there with all above it
        while namespace not in self.namespaces:
            self.namespaces.add(namespace)
            namespace = Namespace(namespace.parts[:-1])
        if len(self.namespaces) > _MOST_NAMESPACES:
            # a hundred parts each would be a gigabyte
            page.stop(key, f"more than {_MOST_NAMESPACES:,} namespaces, with those above them")

    @staticmethod
    def _namespace(page: Page, key: Scalar) -> Namespace | None:
        try:
            namespace = Namespace.parse(key.text)
        except BadRequest:
            page.fault(
                key,
                f'"{shortened(key.text)}" cannot be a namespace: each part is {NAME_RULE}; '
                "root and sys are reserved",
            )
            return None
        if len(str(namespace)) > _LONGEST_FILE_NAME:
            page.fault(key, f"a namespace's path has at most {_LONGEST_FILE_NAME} characters")
        return namespace

    def _take_mounts(self, namespace: Namespace) -> f.Reader[None]:
        mount_key = _mount_key(namespace)
        places = self._places.setdefault(namespace, {})

        def read_mounts(page: Page, node: Node) -> None:
            for key, value in f.entries(page, node, "mounts"):
                mount = f.read(page, key, mount_key)
                if mount is None:
                    continue
                first = places.setdefault(mount.path, (page, key))
                if first[1] is not key:
                    page.fault(key, f"{mount} is already mounted in {first[0].file}:{first[1].line}")
                self._take_mount(page, mount, key, value)

        return read_mounts

    def _take_mount(self, page: Page, mount: MountKey, key: Scalar, node: Node) -> None:
        values = f.read(page, node, f.section(f"mount {mount.path}", _MOUNT))
        if values is None or not isinstance(node, Mapping):
            return
        f.missing(page, node, ["plugin"])
        ref = values.pop("plugin", None)
        if ref is None:
            return
        self._check_type(page, mount, key, ref)
        version = self._version(page, node, ref, values)
        if version is not None:
            self._add(page, mount, key, version, values)

    def _check_type(self, page: Page, mount: MountKey, key: Scalar, ref: PluginRef) -> None:
        top, slash, _ = mount.path.partition("/")
        is_under_auth = top == "auth"
        if ref.type == "auth" and not (is_under_auth and slash):
            page.fault(key, f"{ref} is of type auth and must be mounted under auth/: write auth/{mount.path}")
        elif ref.type != "auth" and is_under_auth:
            page.fault(key, f"{ref} is of type {ref.type} and cannot be mounted under auth/")

    def _version(
        self, page: Page, node: Mapping, ref: PluginRef, values: dict[str, Any]
    ) -> VersionDraft | None:
        draft = self._drafts.get(ref)
        if draft is None:
            if not self._plugins.is_whole:
                return None
            if self._plugin_names is None:
                self._plugin_names = [str(known) for known in self._drafts]
            page.unknown(f.child(node, "plugin") or node, "plugin", str(ref), self._plugin_names)
            return None
        place = f.child(node, "version")
        own = values.get("version")
        if own is None:
            if place is None and not draft.is_pin_given and draft.is_whole:
                page.fault(node, f"{ref} has no pin: write one there, or a version here")
            return draft.versions.get(draft.pin) if draft.pin is not None else None
        if own not in draft.versions and draft.is_whole:
            near = self._faults.near(own, draft.versions)
            page.fault(place or node, f'{ref} has no version "{own}"{near}')
        return draft.versions.get(own)

    def _add(
        self, page: Page, mount: MountKey, key: Scalar, version: VersionDraft, values: dict[str, Any]
    ) -> None:
        has_own_version = values.pop("version", None) is not None
        own: Layer = values
        launch, policies = version.resolve(page, key, own) if own else version.resolved()
        for listener in launch.listen:
            first = self._listening.add(listener.kind, parsed(listener.address), (mount, listener.address))
            if first is not None and first[0] != mount:
                instead = f", as {first[1]}" if first[1] != listener.address else ""
                page.fault(key, f"{listener.address} is already listened on for {first[0]}{instead}")
        if launch.listen:
            for what, probe in probes_of(policies):
                if says_nothing(probe, launch.listen):
                    why = "plugind holds that socket, and a connection succeeds before the plugin runs"
                    page.fault(key, f"{what} of kind {probe.kind} says nothing at {probe.address}: {why}")
        self.mounts[mount] = MountSpec(mount, launch, policies, has_own_version, page.mark(key))

    def finish(self) -> None:
        """Check that no mount lies below another one of its namespace."""
        for namespace, places in self._places.items():
            above: list[str] = []
            # sorted so, everything below a mount comes right after it
            for shown in sorted(f"{path}/" for path in places):
                while above and not shown.startswith(above[-1]):
                    above.pop()
                for other_shown in above:
                    page, key = places[shown[:-1]]
                    other_page, other = places[other_shown[:-1]]
                    page.fault(
                        key,
                        f"{shown} in {namespace} lies below {other_shown} of {other_page.file}:{other.line}",
                    )
                above.append(shown)


def _mount_key(namespace: Namespace) -> f.Reader[MountKey]:
    def read_mount_key(_page: Page, node: Node) -> MountKey:
        written = f.text(_page, node)
        try:
            mount = MountKey.parse(namespace, written)
        except BadRequest:
            mount = None
        # the spellings that clients use are none for a file: sys/ is not part of a path
        if mount is None or written.strip("/") != mount.path:
            raise f.Wrong(
                f'"{shortened(written)}" cannot be a mount: each part is {NAME_RULE}; sys is reserved'
            )
        if len(mount.path) > _LONGEST_FILE_NAME:
            raise f.Wrong(f"a mount's path has at most {_LONGEST_FILE_NAME} characters")
        return mount

    return read_mount_key
