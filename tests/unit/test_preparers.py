"""Pictures and reports made in other processes are those made here, and outlive such a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import reports
from pydicom.dataset import Dataset

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.base.job import JudgedReport, ReportOrder
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph
from worker.models import Description, ModelInfo, Region, Unexplained
from worker.phantom.draw import instance
from worker.pipeline import Case, Conclusion, Pipeline
from worker.service.preparers import Preparers, _Hung, _Process
from worker.service.start import invented_instance
from worker.settings import Pixels, Settings

TEXT = "Displaced fracture of the left seventh rib. Old fracture of the right clavicle."
ORDER = reports.ORDER.model_copy(update={"objects": ("sr", "basic-text", "gsps", "ko")})
PATIENCE_S = 60.0


class Talker:
    info = ModelInfo(name="talks", version="talks-1", prompt="p", has_regions=True)

    def describe(self, radiographs: Sequence[Any], progress: Any = None) -> list[Description]:
        box = Region("left rib fracture", 0.1, 0.2, 0.3, 0.4)
        return [Description(TEXT, 9, "stop", 0.25, (box,)) for _ in radiographs]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def begun(count: int, options: Pixels) -> Preparers:
    made = Preparers(count)
    made.begin(Talker.info, options, invented_instance())
    return made


@pytest.fixture(scope="module")
def options() -> Pixels:
    return Pixels(screening="warn")


@pytest.fixture(scope="module")
def preparers(options: Pixels) -> Iterator[Preparers]:
    made = begun(1, options)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pipelines(preparers: Preparers, options: Pixels) -> Iterator[tuple[Pipeline, Pipeline]]:
    """One that does all here, and one that has other processes do it."""
    with Decoder() as decoder:
        here = Pipeline(Talker(), decoder, options)  # type: ignore[arg-type]
        yield here, Pipeline(Talker(), decoder, options, elsewhere=preparers)  # type: ignore[arg-type]


def drawing(**elements: Any) -> bytes:
    ds = instance(7, 0)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    content = BytesIO()
    ds.save_as(content, enforce_file_format=True)
    return content.getvalue()


def table() -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    item.LUTData = np.sqrt(np.arange(4096) * 4095.0).astype("<u2").tobytes()
    return item


CONTENTS: dict[str, Callable[[], bytes]] = {
    "a drawing": drawing,
    "in Cyrillic": lambda: drawing(SpecificCharacterSet="ISO_IR 192", PatientName="Иванова^Анна"),
    "with a table": lambda: drawing(VOILUTSequence=[table()]),
    "a lateral view": lambda: drawing(ViewPosition="LL"),
    "without a study": lambda: drawing(StudyInstanceUID=""),
    "JPEG-LS": lambda: hostile.coded(hostile.JPEG_LS, hostile.jpegls()),
    "deflated": lambda: hostile.deflated(hostile.data_set(262_144)),
    "a table cut short": lambda: hostile.huge(VOILUTSequence=hostile.table_element(b"\0\1" * 9)),
    "a PNG": hostile.png,
    "nothing": bytes,
}


def reported(pipeline: Pipeline, content: bytes, order: ReportOrder) -> tuple[Case, Conclusion]:
    case = pipeline.prepare(content)
    pipeline.describe([case])
    return case, pipeline.build(case, order, "token")


def facts(case: Case, made: Conclusion) -> tuple[Any, ...]:
    """Return all but the times; the reason stands in the result."""
    picture = case.radiograph
    seen = (
        None
        if picture is None
        else (picture.pixels.tobytes(), picture.pixels.shape, picture.steps, picture.warnings)
    )
    result = made.result.model_copy(update={"stages_ms": {}})
    return seen, result, made.documents, sorted(made.result.stages_ms)


@pytest.mark.parametrize("name", CONTENTS)
def test_another_process_makes_the_same_picture_and_the_same_bytes(
    name: str, pipelines: tuple[Pipeline, Pipeline]
) -> None:
    content = CONTENTS[name]()
    here, there = (facts(*reported(pipeline, content, ORDER)) for pipeline in pipelines)
    assert here == there


def test_pages_show_the_picture_that_the_other_process_has_given_away(
    pipelines: tuple[Pipeline, Pipeline],
) -> None:
    order = ORDER.model_copy(update={"objects": ("sr", "sc", "pdf")})
    here, there = (facts(*reported(pipeline, drawing(), order)) for pipeline in pipelines)
    assert here == there


def test_a_judged_report_is_the_same_too(pipelines: tuple[Pipeline, Pipeline]) -> None:
    judged = JudgedReport(
        text=TEXT, presence="present", model_version="m-1", device_uid="2.25.4", options="0" * 64
    )
    for content in (drawing(), drawing(ViewPosition="LL")):
        cases = [pipeline.prepare_judged(content, judged) for pipeline in pipelines]
        made = [p.build(case, ORDER, "t") for p, case in zip(pipelines, cases, strict=True)]
        assert facts(cases[0], made[0]) == facts(cases[1], made[1])


def test_what_was_not_read_elsewhere_is_built_here(pipelines: tuple[Pipeline, Pipeline]) -> None:
    case = Case(radiograph=Radiograph(np.zeros((9, 9), np.uint8), "invented"))
    pipelines[1].describe([case])
    assert pipelines[1].build(case, ORDER).documents == ()


def test_the_picture_may_be_written_to(pipelines: tuple[Pipeline, Pipeline]) -> None:
    picture = pipelines[1].prepare(drawing()).radiograph
    assert picture is not None
    picture.pixels[0, 0] = 255


def test_it_holds_the_header_of_an_image_and_not_its_pixels(
    pipelines: tuple[Pipeline, Pipeline],
) -> None:
    content = drawing()
    kept = pipelines[1].prepare(content).kept
    assert content.startswith(kept.header)
    assert len(kept.header) + len(kept.display) < 10_000 < len(content)


def test_a_fault_arrives_as_an_error_of_this_project(
    pipelines: tuple[Pipeline, Pipeline],
) -> None:
    case = pipelines[1].prepare(drawing())
    pipelines[1].describe([case])
    with pytest.raises(ConfigurationError, match="SR SOP class 'other' is none of"):
        pipelines[1].build(case, ORDER.model_copy(update={"sop_classes": ("other",)}))
    case.kept = type(case.kept)(case.kept.header, b"not what was written there")
    with pytest.raises(Unexplained, match="UnpicklingError in the worker"):
        pipelines[1].build(case, ORDER)
    assert pipelines[1].prepare(drawing()).is_waiting, "and the process goes on"


def test_it_has_neither_torch_nor_secrets_nor_a_network(preparers: Preparers) -> None:
    (process,) = preparers._all
    folder = Path(f"/proc/{process._process.pid}")
    assert "torch" not in (folder / "maps").read_text()
    assert "NoNewPrivs:\t1" in (folder / "status").read_text()
    assert b"SECRET" not in (folder / "environ").read_bytes()


def test_its_decoder_may_not_fill_the_memory(
    preparers: Preparers, pipelines: tuple[Pipeline, Pipeline], options: Pixels
) -> None:
    pipelines[1].prepare(CONTENTS["JPEG-LS"]())
    (process,) = preparers._all
    pid = process._process.pid
    (decoder,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    limits = Path(f"/proc/{decoder}/limits").read_text()
    (limit,) = re.findall(r"Max address space +(\S+)", limits)
    assert int(limit) < options.decode_memory + (600 << 20)


def test_it_writes_no_value_of_an_image_to_the_log(
    options: Pixels, capfd: pytest.CaptureFixture[str]
) -> None:
    content = CONTENTS["in Cyrillic"]().replace(b"ISO_IR 192", b"OF_PATIENT")
    made = begun(1, options)
    try:
        made.make_picture(Case(), content)
    finally:
        made.close()
    assert "OF_PATIENT" not in capfd.readouterr().err


def test_asked_to_end_it_goes_on_until_its_worker_has_ended(
    preparers: Preparers, pipelines: tuple[Pipeline, Pipeline]
) -> None:
    """A service manager asks all processes of a service at once."""
    (process,) = preparers._all
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process._process.pid, number)
    assert pipelines[1].prepare(drawing()).is_waiting
    assert preparers._all == {process}


def test_memory_of_a_large_image_is_given_back(pipelines: tuple[Pipeline, Pipeline]) -> None:
    (process,) = pipelines[1]._elsewhere._all  # type: ignore[union-attr]
    pipelines[1].prepare(bytes(40 << 20))
    assert len(process._shared) >= 40 << 20
    pipelines[1].prepare(drawing())
    assert os.fstat(process._shared.descriptor).st_size <= 32 << 20


# deaths -------------------------------------------------------------------------------------------


class Dying(_Process):
    """Stops amid the next requests, of which so many; then it is killed, or let be."""

    stops, is_killed = 0, True

    def ask(self, request: dict[str, Any], parts: Any, seconds: float) -> Any:
        if request["do"] != "picture" or not Dying.stops:
            return super().ask(request, parts, seconds)
        Dying.stops -= 1
        os.killpg(self._process.pid, signal.SIGSTOP)
        if Dying.is_killed:
            threading.Timer(0.05, os.killpg, (self._process.pid, signal.SIGKILL)).start()
        return super().ask(request, parts, seconds if Dying.is_killed else 0.1)


def test_a_death_costs_one_repetition_and_a_second_one_blames_its_image(
    monkeypatch: pytest.MonkeyPatch, options: Pixels
) -> None:
    monkeypatch.setattr("worker.service.preparers._Process", Dying)
    made = Preparers(1)
    (first,) = made._all
    os.kill(first._process.pid, signal.SIGKILL)
    made.begin(Talker.info, options, invented_instance())
    assert first not in made._all, "what was ended at its start is started again"
    try:
        pipeline = Pipeline(Talker(), None, options, elsewhere=made)  # type: ignore[arg-type]
        Dying.stops, Dying.is_killed = 1, True
        case, conclusion = reported(pipeline, drawing(), ORDER)
        assert [d.kind for d in conclusion.documents] == ["sr", "basic-text", "gsps", "ko"]
        assert case.is_waiting
        Dying.stops, Dying.is_killed = 1, False
        with pytest.raises(Unexplained, match=r"gave no answer in time and was ended$"):
            pipeline.prepare(
                drawing()
            )  # twice that time, and the whole worker were taken for stuck
        Dying.stops, Dying.is_killed = 2, True
        with pytest.raises(Unexplained, match=r"ended \(Killed\), twice"):
            pipeline.prepare(drawing())
        assert made._idle == [None], "the next image gets a process of its own"
        assert not made._all
    finally:
        made.close()


def test_a_process_that_ends_at_its_start_blames_no_image(
    monkeypatch: pytest.MonkeyPatch, options: Pixels
) -> None:
    made = begun(1, options)
    try:
        (first,) = made._all
        first.kill()
        begin = _Process.begin

        def killed(process: _Process, *args: Any) -> None:
            os.killpg(process._process.pid, signal.SIGKILL)
            begin(process, *args)

        monkeypatch.setattr(_Process, "begin", killed)
        with pytest.raises(Unreachable, match=r"ended \(Killed\) at its start"):
            made.make_picture(Case(), b"")
        monkeypatch.undo()
        made.make_picture(Case(), drawing())
    finally:
        made.close()


def test_a_long_request_to_a_process_that_has_stopped_ends_in_time(preparers: Preparers) -> None:
    """A pipe holds 64 KiB: a write that waits for its reader would wait for ever."""
    process = preparers._start()
    try:
        process._read_answer(time.monotonic() + PATIENCE_S)
        os.killpg(process._process.pid, signal.SIGSTOP)
        with pytest.raises(_Hung, match="took no request in time"):
            process.ask({"do": "picture", "judged": "x" * 1_000_000}, [b""], 0.2)
        assert not process.is_alive
    finally:
        preparers._drop(process)


def test_a_long_request_arrives_whole(pipelines: tuple[Pipeline, Pipeline]) -> None:
    here, elsewhere = pipelines
    content, text = drawing(), "No fracture of the left seventh rib. " * 20_000
    built = []
    for pipeline in (here, elsewhere):
        case = pipeline.prepare(content)
        case.description = Description(text, 9, "stop", 0.25)
        built.append([d.content for d in pipeline.build(case, ORDER).documents])
    assert built[0] == built[1]


def test_reports_come_before_pictures(preparers: Preparers) -> None:
    order: list[str] = []
    held = preparers._take(is_report=False)

    def ask(name: str, *, is_report: bool) -> None:
        process = preparers._take(is_report=is_report)
        order.append(name)
        preparers._give_back(process)

    asks = []
    for name, is_report in (("picture", False), ("another", False), ("report", True)):
        asks.append(threading.Thread(target=ask, args=(name,), kwargs={"is_report": is_report}))
        asks[-1].start()
    until(lambda: preparers._reports == 1)
    preparers._give_back(held)
    for asked in asks:
        asked.join(PATIENCE_S)
    assert order[0] == "report"
    assert sorted(order[1:]) == ["another", "picture"]


def test_all_end_with_the_worker_whatever_they_are_about(tmp_path: Path) -> None:
    code = """
import json, os, sys, time
from worker.models import ModelInfo
from worker.service.preparers import Preparers
made = Preparers(2)
print(json.dumps([process._process.pid for process in made._all]), flush=True)
time.sleep(600)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    pids = json.loads(worker.stdout.readline())
    assert len(pids) == 2
    worker.kill()
    worker.wait()
    worker.stdout.close()
    until(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_closed_worker_lets_nobody_wait(options: Pixels) -> None:
    made = Preparers(1)
    held = made._take(is_report=False)
    assert held is not None
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            made.make_picture(Case(), b"")
        except Unreachable as exc:
            raised.append(exc)

    asked = threading.Thread(target=ask)
    asked.start()
    made.close()
    asked.join(PATIENCE_S)
    assert len(raised) == 1
    assert not held.is_alive
    made._give_back(held)
    assert not made._all


def test_auto_means_none_where_processors_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(processors: int, **table: Any) -> int:
        monkeypatch.setattr("worker.settings.processor_count", lambda: processors)
        return Settings(worker={"nodes": ["http://n"], **table}).worker.preparer_count

    assert [count(n) for n in (1, 2, 3, 4, 8, 64)] == [0, 0, 1, 2, 4, 4]
    assert count(64, devices=("cuda:0", "cuda:1")) == 2
    assert count(1, preparers=3) == 3
    assert count(64, preparers=0) == 0
    with pytest.raises(ValueError, match='write "auto" or 0 to 64'):
        count(2, preparers=65)
