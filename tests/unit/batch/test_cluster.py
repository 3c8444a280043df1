"""Workers: cores shared out, one GPU each, spawned, and what happens when they die."""

from __future__ import annotations

import os
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from made_up_work import MadeUpScenario, made_up, noted

from spinedose.backends.select import count_devices
from spinedose.batch import compute
from spinedose.batch.cluster import CONFIG, open_client, visible_devices, worker_options
from spinedose.batch.run import run
from spinedose.errors import BackendUnavailable, InvalidInput

pytest.importorskip("distributed")

ONE, TWO, THREE = (MadeUpScenario(name, amount) for name, amount in (("one", 1.0), ("two", 2.0), ("three", 3.0)))


@pytest.mark.parametrize(("workers", "cores", "threads"), [(2, 2, 1), (1, 2, 2), (3, 16, 5), (4, 2, 1)])
def test_cores_are_shared_out(workers: int, cores: int, threads: int) -> None:
    found = worker_options(workers, cores=cores)
    assert len(found) == workers
    for one in found:
        assert one["nthreads"] == 1  # numba's threads belong to all Python threads of a process
        assert one["env"]["NUMBA_NUM_THREADS"] == str(threads)
        assert "CUDA_VISIBLE_DEVICES" not in one["env"]
    assert sum(one["memory_limit"] for one in found) <= found[0]["memory_limit"] * workers


def test_each_worker_has_one_gpu_for_itself() -> None:
    found = worker_options(3, cores=16, devices=("0", "2", "GPU-8f1c", "5"))
    assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "2", "GPU-8f1c"]
    with pytest.raises(InvalidInput, match="there are 2 GPUs"):
        worker_options(3, cores=16, devices=("0", "1"))


def test_there_is_a_worker() -> None:
    with pytest.raises(InvalidInput, match="0 workers"):
        worker_options(0, cores=2)
    with pytest.raises(InvalidInput, match="0 workers"), open_client(workers=0):
        pass


@pytest.mark.parametrize(
    ("backend", "listed", "devices"),
    [
        ("cpu", "", ()),
        ("auto", "", ("0", "1", "2")),
        ("cuda", "", ("0", "1", "2")),
        ("cuda:1", "", ("1",)),
        ("cuda", "4,6,7", ("4", "6", "7")),  # a queue gave these to us
        ("cuda:1", "4,6,7", ("6",)),
    ],
)
def test_gpus_that_workers_can_have(
    backend: str, listed: str, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spinedose.backends.select.count_devices", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_devices(backend) == devices


@pytest.mark.parametrize(
    ("backend", "own_worker", "elsewhere"),
    [("cuda:1", "cuda", "cuda:1"), ("cuda", "cuda", "cuda"), ("auto", "auto", "auto")],
)
def test_a_worker_has_its_gpu_as_the_first(
    backend: str, own_worker: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number counts what the run sees. A worker of this computer sees one GPU; of a cluster, what it has."""
    asked: list[str] = []
    monkeypatch.setattr("spinedose.backends.select.count_devices", lambda: 3)
    monkeypatch.setattr(compute, "Study", lambda *_, backend, **__: asked.append(backend))
    for name in ("read_plan", "read_ct", "read_structures"):
        monkeypatch.setattr(compute, name, lambda *_, **__: None)
    work = compute.DoseWork(backend=backend)
    patient = types.SimpleNamespace(plan="", ct=(), structures="")
    work.prepare(patient)  # type: ignore[arg-type]
    (options,) = worker_options(1, cores=2, devices=visible_devices(backend))
    for name, value in options["env"].items():
        monkeypatch.setenv(name, value)
    work.prepare(patient)  # type: ignore[arg-type]
    assert asked == [elsewhere, own_worker]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spinedose.backends.select.count_devices", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices("auto") == ()
    for backend in ("cuda", "cuda:0"):
        with pytest.raises(BackendUnavailable, match="0 were found"):
            visible_devices(backend)


def test_devices_are_counted_by_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> int:
        raise OSError("CUDA driver version is insufficient")

    fake = types.ModuleType("cupy")
    fake.__spec__ = ModuleSpec("cupy", None)
    for count, expected in ((lambda: 4, 4), (no_driver, 0)):
        fake.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cupy", fake)
        assert count_devices() == expected


def test_workers_are_spawned() -> None:
    assert CONFIG["distributed.worker.multiprocessing-method"] == "spawn"


def test_a_scheduler_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spinedose.batch.cluster.PATIENCE", "1s")
    with pytest.raises(InvalidInput, match="does not answer"), open_client(scheduler="tcp://127.0.0.1:9"):
        pass
    with pytest.raises(InvalidInput, match="workers of its own"), open_client(scheduler="tcp://127.0.0.1:9", workers=2):
        pass


def _seen() -> tuple[int, str | None, str | None]:
    return os.getpid(), os.environ.get("NUMBA_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.slow
def test_a_worker_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    """One kills itself between two results, as `kill -9` would; its task goes on in another process."""
    asked = made_up(tmp_path, ONE, MadeUpScenario("two", 2.0, "dies once"), THREE, patients=1)
    with open_client(workers=2, cores=4, devices=("0", "1")) as client:
        before = client.run(_seen)
        found = run(asked, client, scenarios_a_task=3)
        client.wait_for_workers(2)
        after = client.run(_seen)
    assert found.is_complete
    assert noted(tmp_path, "computed") == ["a one", "a three", "a two"]  # "one" was there already, and stayed
    assert len(noted(tmp_path, "prepared")) >= 2
    # the process that took its place has the same GPU
    assert {process for process, *_ in before.values()} != {process for process, *_ in after.values()}
    for seen in (before, after):
        assert {(threads, device) for _, threads, device in seen.values()} == {("2", "0"), ("2", "1")}


@pytest.mark.slow
def test_a_scenario_that_brings_workers_down_costs_no_other(tmp_path: Path) -> None:
    asked = made_up(tmp_path, ONE, MadeUpScenario("two", 2.0, "dies"), THREE, patients=1)
    with open_client(workers=2, cores=2) as client:
        found = run(asked, client, scenarios_a_task=3)
        assert [line.state for line in found.lines] == ["done", "absent", "done"]
        assert "workers died" in found.lines[1].reason
        (tmp_path / "mended").touch()
        assert run(asked, client).is_complete
    assert noted(tmp_path, "computed") == ["a one", "a three", "a two"]
    assert not list(asked.results.folder.glob("*/.*"))


@pytest.mark.slow
def test_a_scenario_that_waits_where_another_dies_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker, and a Dask that gives up at the first death: it blames what waits in line there as well."""
    monkeypatch.setattr("spinedose.batch.cluster.DEATHS_OF_A_TASK", 0)
    asked = made_up(tmp_path, MadeUpScenario("one", 1.0, "dies"), TWO, patients=1)
    with open_client(workers=1, cores=1) as client:
        found = run(asked, client, scenarios_a_task=1)
    assert [line.state for line in found.lines] == ["absent", "done"]
    assert noted(tmp_path, "computed") == ["a two"]


@pytest.mark.slow
def test_a_patient_that_cannot_even_be_looked_at_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spinedose.batch.cluster.DEATHS_OF_A_TASK", 0)
    asked = made_up(tmp_path, ONE, patients=2)
    (tmp_path / "a" / "plan.txt").write_text("dies when looked at")
    with open_client(workers=1, cores=1) as client:
        found = run(asked, client)
    assert found.lost == (("a", "Its workers died, time after time (memory, perhaps)"),)
    assert [line.state for line in found.lines] == ["done"]


@pytest.mark.slow
def test_a_patient_that_brings_workers_down_while_he_is_made_ready_is_given_up(tmp_path: Path) -> None:
    asked = made_up(tmp_path, ONE, TWO, patients=2)
    (tmp_path / "b" / "plan.txt").write_text("dies")
    with open_client(workers=2, cores=2) as client:
        found = run(asked, client, scenarios_a_task=2)
    assert [line.state for line in found.lines] == ["done", "done", "absent", "absent"]
    assert all("workers died" in line.reason for line in found.lines[2:])
