"""The catalog in force: a good edit is loaded, a bad one is reported and the last good one stays."""

import asyncio

import pytest
from engine_fakes import FakeCatalogFile, a_catalog, nonsense, settle
from structlog.testing import capture_logs

from supervisor.domain.catalog import EMPTY
from supervisor.domain.errors import CatalogInvalid
from supervisor.engine.staging import Staging

ONE, TWO = a_catalog("auth/a"), a_catalog("auth/a", "auth/b")


async def test_a_good_file_is_in_force_and_saved() -> None:
    file = FakeCatalogFile(ONE)
    staging = Staging(file)

    await staging.begin()

    state = staging.state()
    assert staging.catalog is ONE
    assert file.saved is ONE
    assert (state.source, state.mounts, state.plugins, state.faults) == ("file", 1, 2, [])
    assert state.file == "/etc/plugind/catalog.yaml"
    assert state.loaded_at is not None


async def test_a_broken_file_at_the_start_leaves_the_last_good_catalog_and_says_so() -> None:
    file = FakeCatalogFile(nonsense())
    file.saved = ONE
    staging = Staging(file)

    with capture_logs() as logs:
        await staging.begin()

    assert staging.catalog is ONE
    assert (staging.state().source, staging.state().faults) == (
        "last good",
        ["catalog.yaml:3:1: unknown key"],
    )
    assert [(line["event"], line["in_force"]) for line in logs] == [("catalog_refused", "last good")]


async def test_a_broken_file_at_the_very_first_start_is_an_empty_catalog() -> None:
    staging = Staging(FakeCatalogFile(nonsense()))

    await staging.begin()

    assert staging.catalog is EMPTY
    assert (staging.state().source, staging.state().loaded_at) == ("none", None)


async def test_why_there_is_no_last_good_catalog_either_is_said_until_there_is_a_good_one() -> None:
    file = FakeCatalogFile(nonsense())
    file.why_none = "cannot use catalog.json: it is damaged"
    staging = Staging(file)

    with capture_logs() as logs:
        await staging.begin()
        await staging.look_again()

    assert staging.state().faults == ["catalog.yaml:3:1: unknown key", file.why_none]
    assert [line["reason"].endswith(file.why_none) for line in logs] == [True]
    file.says = ONE
    await staging.look_again()
    assert staging.state().faults == []


async def test_a_bad_edit_is_reported_once_and_changes_nothing() -> None:
    file = FakeCatalogFile(ONE)
    staging = Staging(file)
    await staging.begin()
    file.says = nonsense()

    with capture_logs() as logs:
        await staging.look_again()
        await staging.look_again()

    assert staging.catalog is ONE
    assert staging.state().source == "file"
    assert staging.state().faults == ["catalog.yaml:3:1: unknown key"]
    assert [line["event"] for line in logs] == ["catalog_refused"]


async def test_a_good_edit_ends_the_faults() -> None:
    file = FakeCatalogFile(ONE)
    staging = Staging(file)
    await staging.begin()
    file.says = nonsense()
    await staging.look_again()
    file.says = TWO

    with capture_logs() as logs:
        await staging.look_again()

    assert (staging.catalog, staging.state().faults) == (TWO, [])
    assert file.saved is TWO
    assert [line["event"] for line in logs] == ["catalog_loaded"]


async def test_a_command_gets_the_faults_of_the_file_as_it_is_now() -> None:
    file = FakeCatalogFile(ONE)
    staging = Staging(file)
    await staging.begin()
    file.says = nonsense()

    with pytest.raises(CatalogInvalid, match="unknown key"):
        await staging.current()
    assert staging.catalog is ONE


async def test_the_same_catalog_is_not_saved_again() -> None:
    file = FakeCatalogFile(ONE)
    staging = Staging(file)
    await staging.begin()
    loaded = staging.state().loaded_at
    file.saved = None

    await staging.look_again()

    assert file.saved is None
    assert staging.state().loaded_at == loaded


async def test_a_catalog_that_cannot_be_saved_is_in_force_all_the_same() -> None:
    file = FakeCatalogFile(ONE)
    file.fails_to_keep = "no space left on device"
    staging = Staging(file)

    with capture_logs() as logs:
        await staging.begin()

    assert staging.catalog is ONE
    assert logs[-1]["event"] == "catalog_not_saved"


async def test_an_edit_that_mends_the_file_during_the_start_is_not_undone_by_the_last_good_one() -> None:
    file = FakeCatalogFile(nonsense())
    file.saved, file.gate = ONE, asyncio.Event()
    staging = Staging(file)
    begun = asyncio.get_running_loop().create_task(staging.begin())
    await settle()
    file.says = TWO
    await staging.look_again()

    file.gate.set()
    await begun

    assert (staging.catalog, staging.state().source) == (TWO, "file")
