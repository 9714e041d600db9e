import pytest
from msgspec.structs import replace

from supervisor.domain.catalog import (
    EMPTY,
    Catalog,
    FromFile,
    Launch,
    MountSpec,
    Plugin,
    Policies,
    StopPolicy,
)
from supervisor.domain.errors import BadRequest
from supervisor.domain.names import ROOT, MountKey, Namespace, PluginRef
from supervisor.domain.plan import ByMounts, ByPlugin, Current, Target, changed_keys, diff, multierror, select

TEAM, DEV = Namespace(("team-a",)), Namespace(("team-a", "dev"))
MOCK, KV, KV_AUTH = PluginRef("auth", "mock-plugin"), PluginRef("secret", "kv"), PluginRef("auth", "kv")
IDLE = PluginRef("database", "idle")


def launch(ref: PluginRef, version: str = "v1") -> Launch:
    return Launch(ref, version, f"/bin/{ref.name}")


def a_catalog() -> Catalog:
    mounted = {
        MountKey(ROOT, "kv"): KV,
        MountKey(ROOT, "auth/mock"): MOCK,
        MountKey(ROOT, "auth/kv"): KV_AUTH,
        MountKey(TEAM, "auth/mock"): MOCK,
        MountKey(DEV, "auth/mock"): MOCK,
    }
    return Catalog(
        {ref: Plugin(ref, "v1", {}) for ref in (MOCK, KV, KV_AUTH, IDLE)},
        {key: MountSpec(key, launch(ref), Policies()) for key, ref in mounted.items()},
        frozenset({ROOT, TEAM, DEV}),
    )


def names(target: Target, namespace: Namespace) -> list[str]:
    return [str(key) for key in select(a_catalog(), target, namespace)]


def test_a_plugin_means_its_mounts_of_this_namespace_and_not_of_its_children() -> None:
    assert names(ByPlugin("mock-plugin"), ROOT) == ["auth/mock/ in root"]
    assert names(ByPlugin("mock-plugin"), TEAM) == ["auth/mock/ in team-a"]


def test_a_plugin_everywhere_means_all_namespaces_in_a_stable_order() -> None:
    found = names(ByPlugin("mock-plugin", "auth", everywhere=True), ROOT)

    assert found == ["auth/mock/ in root", "auth/mock/ in team-a", "auth/mock/ in team-a/dev"]


def test_a_name_without_a_type_means_every_type() -> None:
    assert names(ByPlugin("kv"), ROOT) == ["auth/kv/ in root", "kv/ in root"]
    assert names(ByPlugin("kv", "secret"), ROOT) == ["kv/ in root"]


def test_a_plugin_that_is_mounted_nowhere_here_means_nothing() -> None:
    assert names(ByPlugin("idle"), ROOT) == []
    assert names(ByPlugin("kv"), TEAM) == []


def refusal(target: Target, namespace: Namespace = ROOT, catalog: Catalog | None = None) -> str:
    with pytest.raises(BadRequest) as refused:
        select(catalog or a_catalog(), target, namespace)
    return str(refused.value)


def test_an_unknown_plugin_is_refused_in_openbaos_words() -> None:
    assert refusal(ByPlugin("nope")) == 'plugin not found in the catalog: "nope"'
    assert refusal(ByPlugin("nope"), catalog=EMPTY) == 'plugin not found in the catalog: "nope"'


def test_a_near_match_is_named() -> None:
    assert refusal(ByPlugin("mock-plugn")) == (
        'plugin not found in the catalog: "mock-plugn" (did you mean auth/mock-plugin?)'
    )
    assert refusal(ByPlugin("kv", "database")) == (
        'plugin not found in the catalog: "kv" (did you mean auth/kv or secret/kv?)'
    )


def test_a_long_name_is_not_echoed_whole() -> None:
    assert len(refusal(ByPlugin("x" * 10**6))) < 200


def test_names_are_case_sensitive() -> None:
    assert refusal(ByPlugin("Mock-Plugin")).startswith('plugin not found in the catalog: "Mock-Plugin"')


def test_mounts_are_found_in_every_spelling_and_once() -> None:
    target = ByMounts(("kv/", "/auth/mock", "sys/auth/mock/", "kv"))

    assert names(target, ROOT) == ["auth/mock/ in root", "kv/ in root"]


def test_one_missing_mount_refuses_them_all_in_vaults_words() -> None:
    assert refusal(ByMounts(("kv", "nope"))) == (
        '1 error occurred:\n\t* cannot fetch mount entry on "nope/"\n\n'
    )


def test_all_missing_mounts_are_named() -> None:
    assert refusal(ByMounts(("nope", "auth/nope/", "../x"))) == (
        '3 errors occurred:\n\t* cannot fetch mount entry on "nope/"\n'
        '\t* cannot fetch mount entry on "auth/nope/"\n\t* cannot fetch mount entry on "../x/"\n\n'
    )


@pytest.mark.parametrize("path", ["kv/deep", "mock", "team-a/auth/mock", "", "kv,auth/mock"])
def test_a_path_is_the_mounts_own_and_nothing_near_it(path: str) -> None:
    assert "cannot fetch mount entry on" in refusal(ByMounts((path,)))


def test_a_mount_of_another_namespace_is_not_seen() -> None:
    assert 'on "kv/"' in refusal(ByMounts(("kv",)), TEAM)


def test_errors_are_counted_in_english() -> None:
    assert multierror(["a"]) == "1 error occurred:\n\t* a\n\n"
    assert multierror(["a", "b"]) == "2 errors occurred:\n\t* a\n\t* b\n\n"


KEY = MountKey(ROOT, "kv")
SPEC = MountSpec(KEY, launch(KV), Policies())
ONE = Catalog({}, {KEY: SPEC}, frozenset({ROOT}))


@pytest.mark.parametrize(
    ("catalog", "current", "action", "changed"),
    [
        (ONE, None, "start", ()),
        (ONE, Current(None), "start", ()),
        (ONE, Current(None, held=True), "keep", ("stopped by hand",)),
        (EMPTY, Current(launch(KV)), "stop", ()),
        (EMPTY, Current(None, held=True), "stop", ()),
        (ONE, Current(launch(KV), Policies()), "keep", ()),
        (ONE, Current(launch(KV)), "keep", ()),
        (ONE, Current(launch(KV, "v0"), Policies()), "replace", ("version",)),
        (ONE, Current(launch(KV), Policies(stop=StopPolicy(9))), "settings", ("stop",)),
    ],
)
def test_a_plan_says_what_apply_would_do(
    catalog: Catalog, current: Current | None, action: str, changed: tuple[str, ...]
) -> None:
    (step,) = diff(catalog, {KEY: current} if current else {})

    assert (step.key, step.action, step.changed) == (KEY, action, changed)


def test_steps_come_in_a_stable_order() -> None:
    steps = diff(a_catalog(), {MountKey(TEAM, "gone"): Current(launch(KV))})

    assert [step.key for step in steps] == sorted(step.key for step in steps)
    assert len(steps) == 6


def test_of_env_only_the_names_are_told() -> None:
    old = replace(launch(KV), env=(("A", "1"), ("B", "secret"), ("C", FromFile("/x"))))
    new = replace(launch(KV), env=(("A", "1"), ("B", "hidden"), ("D", "2")), args=("--fast",))

    assert changed_keys(old, new) == ("args", "env (B, C, D)")
