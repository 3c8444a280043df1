"""Running a study: what is there is not computed again, and nothing that goes wrong stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_work import MadeUpScenario, made_up, noted

from spinedose.batch import tasks
from spinedose.batch.compute import DoseWork
from spinedose.batch.identity import program
from spinedose.batch.results import digest
from spinedose.batch.run import Asked, Event, _chunks, _lines, run, status
from spinedose.batch.tasks import Chunk, Job, NotHere, compute_chunk, key_of
from spinedose.batch.wording import in_study_words
from spinedose.dicom.plan import write_plan
from spinedose.errors import InvalidInput
from spinedose.plan import Plan

ONE, TWO, THREE = (MadeUpScenario(name, amount) for name, amount in (("one", 1.0), ("two", 2.0), ("three", 3.0)))


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Workers in threads of this process: no start-up, but the real scheduler."""
    distributed = pytest.importorskip("distributed")
    with distributed.Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None, set_as_default=False
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("", "A (b). C."),
        ("plan", "A (b). C with 'plan' in [patients]."),
        ('bolus="ignore"', 'A (b). C with bolus = "ignore" in [patients].'),
        ("machine", "A (b). C with 'machine' in [settings]."),
        ("ct", "A (b). Have the CT of the plan in the patient's folder, and no other."),
        ("beams", "A (b). A study file has no key for that: "),
    ],
)
def test_errors_name_keys_of_the_study_file(argument: str, words: str) -> None:
    told = in_study_words(InvalidInput("A", "b", "C", argument))
    assert told.startswith(words) and "`" not in told


def test_patients_without_a_ct_are_told_in_words_of_the_study(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    (tmp_path / "a").mkdir()
    write_plan(make_plan(), tmp_path / "a" / "RP.dcm")
    asked = Asked((("a", tmp_path / "a"),), DoseWork(), lambda patient: (), tmp_path / "out")
    ((name, reason),) = status(asked).lost
    assert name == "a" and "Have the CT of the plan in the patient's folder" in reason


def test_everything_is_computed_once(tmp_path: Path, client: Any) -> None:
    events: list[Event] = []
    found = run(made_up(tmp_path, ONE, TWO), client, watch=events.append)
    assert found.is_complete
    assert found.computed == 4
    assert noted(tmp_path, "computed") == ["a one", "a two", "b one", "b two"]
    assert [(line.patient.name, line.scenario.name) for line in found.lines] == [
        ("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")
    ]  # fmt: skip
    assert [event.done for event in events if event.what == "plan"] == [0]


def test_the_second_run_computes_nothing(tmp_path: Path, client: Any) -> None:
    run(made_up(tmp_path, ONE, TWO), client)
    found = run(made_up(tmp_path, ONE, TWO), client)
    assert found.is_complete
    assert found.computed == 0
    assert len(noted(tmp_path, "computed")) == 4
    assert len(noted(tmp_path, "prepared")) <= 4  # each worker at most once for each patient


def test_only_what_is_new_or_damaged_is_computed(tmp_path: Path, client: Any) -> None:
    first = run(made_up(tmp_path, ONE, TWO), client)
    results = made_up(tmp_path).results
    damaged = results.path(first.lines[0].key)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    found = run(made_up(tmp_path, ONE, TWO, THREE), client)
    assert found.is_complete
    assert found.computed == 3
    assert noted(tmp_path, "computed") == ["a one", "a one", "a three", "a two", "b one", "b three", "b two"]


def test_another_name_is_no_other_scenario(tmp_path: Path, client: Any) -> None:
    run(made_up(tmp_path, ONE), client)
    found = run(made_up(tmp_path, MadeUpScenario("uno", 1.0)), client)
    assert found.is_complete
    assert found.computed == 0


@pytest.mark.parametrize("change", ["plan", "settings", "program"])
def test_another_input_is_another_result(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made_up(tmp_path, ONE, patients=1)
    before = status(asked).lines[0].key
    if change == "plan":
        (tmp_path / "a" / "plan.txt").write_text("7")
    elif change == "settings":
        asked = made_up(tmp_path, ONE, patients=1, factor=2.0)
    else:
        monkeypatch.setattr("spinedose.batch.tasks.program", lambda: {**program(), "code": "other"})
    assert status(asked).lines[0].key != before


def test_a_refused_scenario_is_recorded_and_stops_nothing(tmp_path: Path, client: Any) -> None:
    asked = made_up(tmp_path, ONE, MadeUpScenario("wrong", 9.0, "refuses"), TWO)
    found = run(asked, client)
    assert not found.is_complete
    assert (found.count("done"), found.count("failed"), found.count("absent")) == (4, 2, 0)
    assert found.lines[1].reason == "wrong is wrong (it was made so)."
    again = run(asked, client)
    assert again.computed == 0  # it would be refused again
    assert run(asked, client, again=True).computed == 2


def test_an_unexpected_error_leaves_no_result_and_stops_nothing(tmp_path: Path, client: Any) -> None:
    asked = made_up(tmp_path, MadeUpScenario("bad", 9.0, "breaks"), ONE, patients=1)
    found = run(asked, client)
    assert (found.count("done"), found.count("failed"), found.count("absent")) == (1, 0, 1)
    assert found.lines[0].reason == "OSError: the disk is full"
    (tmp_path / "mended").touch()
    assert run(asked, client).is_complete
    assert noted(tmp_path, "computed") == ["a bad", "a one"]


def test_a_patient_without_a_plan_stops_nothing(tmp_path: Path, client: Any) -> None:
    asked = made_up(tmp_path, ONE)
    (tmp_path / "a" / "plan.txt").unlink()
    found = run(asked, client)
    assert found.lost == (("a", "There is no plan in 'a'."),)
    assert found.count("done") == 1
    assert not found.is_complete


def test_the_same_patient_twice_is_computed_once(tmp_path: Path, client: Any) -> None:
    asked = made_up(tmp_path, ONE, TWO)
    (tmp_path / "b" / "plan.txt").write_text("1")
    found = run(asked, client)
    assert found.is_complete
    assert found.computed == 2
    assert len(noted(tmp_path, "computed")) == 2


def test_looking_changes_nothing(tmp_path: Path) -> None:
    found = status(made_up(tmp_path, ONE, TWO))
    assert found.count("absent") == 4
    assert not (tmp_path / "out").exists()
    assert noted(tmp_path, "prepared") == []


def test_a_worker_with_another_program_refuses(tmp_path: Path) -> None:
    chunk = _chunk(tmp_path, ONE)
    with pytest.raises(NotHere, match="has another spinedose"):
        compute_chunk(Chunk(chunk.work, chunk.patient, chunk.jobs, chunk.results, "another"))
    assert not (tmp_path / "out").exists()


def test_files_that_changed_meanwhile_are_not_filed_under_the_old_hash(tmp_path: Path) -> None:
    chunk = _chunk(tmp_path, ONE)
    (tmp_path / "a" / "plan.txt").write_text("7")
    with pytest.raises(NotHere, match="have changed"):
        compute_chunk(chunk)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_patient_is_made_ready_once_for_tasks_in_a_row_and_one_at_a_time(tmp_path: Path) -> None:
    asked = made_up(tmp_path, ONE, TWO, patients=2)
    lines = list(_lines(asked, [asked.work.look(name, folder) for name, folder in asked.folders]))
    chunks = list(_chunks(asked, lines, 1, 1, ""))
    for chunk in chunks:
        compute_chunk(chunk)
    assert len(chunks) == 4
    assert noted(tmp_path, "prepared") == ["a", "b"]
    assert [patient.name for _, patient in tasks._kept] == ["b"]


def test_pieces_are_small_enough_for_all_workers(tmp_path: Path) -> None:
    scenarios = [MadeUpScenario(f"number {n}", float(n)) for n in range(40)]
    asked = made_up(tmp_path, *scenarios)
    lines = list(_lines(asked, [asked.work.look(name, folder) for name, folder in asked.folders]))
    for workers, size in ((1, 8), (4, 5), (100, 1)):
        chunks = list(_chunks(asked, lines, 8, workers, ""))
        assert max(len(chunk.jobs) for chunk in chunks) == size
        assert sum(len(chunk.jobs) for chunk in chunks) == 80
        assert all(len({chunk.patient.name}) == 1 for chunk in chunks)


def _chunk(folder: Path, scenario: MadeUpScenario) -> Chunk:
    asked: Asked = made_up(folder, scenario, patients=1)
    patient = asked.work.look("a", folder / "a")
    job = Job(key_of(asked.work, patient, scenario), scenario)
    return Chunk(asked.work, patient, (job,), asked.results.folder, digest(program()))
