"""Reports go to real DCMTK archives over one association; each failure says what to do."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from listening import DX, listening, radiograph, written
from peers import need
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.errors import NotUnderstood, Refused, Unreachable
from dicom_node.dimse import scu
from dicom_node.dimse.archive import Archive
from dicom_node.dimse.scu import Destination
from dicom_node.settings import Peer, Tls
from dicom_node.standard import status

pytestmark = pytest.mark.peer

SR = "1.2.840.10008.5.1.4.1.1.88.34"
BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
SECRET_CLASS = "1.2.3.4.5.6"


@contextmanager
def archive(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run DCMTK's storescp until the block ends."""
    folder.mkdir(exist_ok=True)
    command = [need("storescp"), *options, "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        # It must be heard without a connection: storescp tells --abort-after from the first one.
        listening_ports = Path("/proc/net/tcp").read_text()
        if f":{port:04X} 00000000:0000 0A" in listening_ports:
            return
        time.sleep(0.02)
    raise TimeoutError(port)


def peer_at(port: int, timeout: float = 3, **rest: object) -> Peer:
    return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=timeout, **rest)


def report(folder: Path, name: str = "sr.dcm") -> Path:
    """Return a Part 10 file with the SOP class of a report."""
    ds = radiograph()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SR
    ds.Modality = "SR"
    del ds.PixelData
    return written(folder, ds, name)


def stored(folder: Path) -> list[Dataset]:
    return [dcmread(path, force=True) for path in sorted(folder.iterdir())]


def test_reports_go_out_over_one_association(tmp_path: Path, free_port: int) -> None:
    files = [report(tmp_path, f"{number}.dcm") for number in range(5)]
    with archive(tmp_path / "archive", free_port), Destination("NODE", peer_at(free_port)) as to:
        for file in files:
            to.connect([SR, BASIC_TEXT])
            assert to.accepts(SR)
            assert to.store(file) == 0
            first = to._assoc
        assert to._assoc is first
        assert to.is_open
    uids = {ds.SOPInstanceUID for ds in stored(tmp_path / "archive")}
    assert uids == {dcmread(file).SOPInstanceUID for file in files}


def test_an_archive_that_takes_implicit_vr_only_gets_it(tmp_path: Path, free_port: int) -> None:
    """DCMTK's +xi takes nothing else, as many old archives do."""
    sent = report(tmp_path)
    with (
        archive(tmp_path / "archive", free_port, "+xi"),
        Destination("NODE", peer_at(free_port)) as to,
    ):
        to.connect([SR])
        assert to.accepts(SR)
        assert to.store(sent) == 0
    (kept,) = stored(tmp_path / "archive")
    assert kept.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert kept.PatientName == dcmread(sent).PatientName


def test_a_sop_class_that_nobody_takes_is_known_before_sending(
    tmp_path: Path, free_port: int
) -> None:
    with archive(tmp_path / "archive", free_port), Destination("NODE", peer_at(free_port)) as to:
        to.connect([SECRET_CLASS])
        assert not to.accepts(SECRET_CLASS)
        with pytest.raises(Refused, match=SR):
            to.store(report(tmp_path))


def test_a_refusing_archive_is_told_apart(tmp_path: Path, free_port: int) -> None:
    with (
        archive(tmp_path / "archive", free_port, "--refuse"),
        pytest.raises(Unreachable, match="rejected the association permanently"),
    ):
        Destination("NODE", peer_at(free_port)).connect([SR])


def test_an_archive_that_aborts_is_unreachable(tmp_path: Path, free_port: int) -> None:
    with (
        archive(tmp_path / "archive", free_port, "--abort-after"),
        Destination("NODE", peer_at(free_port)) as to,
    ):
        to.connect([SR])
        with pytest.raises(Unreachable, match="broke the association"):
            to.store(report(tmp_path))
        assert not to.is_open


def test_a_frozen_archive_is_unreachable_within_its_timeout(tmp_path: Path, free_port: int) -> None:
    with archive(tmp_path / "archive", free_port) as process:
        with Destination("NODE", peer_at(free_port, timeout=1)) as to:
            to.connect([SR])
            process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(Unreachable):
                to.store(report(tmp_path))
            assert time.monotonic() - started < 10
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"no answer within 1 s"):
            Destination("NODE", peer_at(free_port, timeout=1)).connect([SR])
        assert time.monotonic() - started < 10


def test_a_frozen_archive_in_a_large_object_is_unreachable_too(
    tmp_path: Path, free_port: int
) -> None:
    large = written(tmp_path, radiograph(rows=2000, columns=1000), "large.dcm")
    with archive(tmp_path / "archive", free_port) as process:
        to = Destination("NODE", peer_at(free_port, timeout=1))
        to.connect([DX])
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(Unreachable):
            to.store(large)
        # 4 MB have 4 s at the slowest rate that counts as progress, beside the timeout.
        assert time.monotonic() - started < 20


def test_an_archive_that_died_between_two_reports_is_found_again(
    tmp_path: Path, free_port: int
) -> None:
    first, second = report(tmp_path, "1.dcm"), report(tmp_path, "2.dcm")
    to = Destination("NODE", peer_at(free_port))
    with archive(tmp_path / "archive", free_port):
        to.connect([SR])
        assert to.store(first) == 0
    with pytest.raises(Unreachable):
        to.store(second)
    with pytest.raises(Unreachable, match="refuses connections"):
        to.connect([SR])
    with archive(tmp_path / "archive", free_port):
        to.connect([SR])
        assert to.store(second) == 0
    to.close()
    assert len(stored(tmp_path / "archive")) == 2


def test_an_idle_association_is_released_and_made_anew(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scu, "IDLE_S", 0.6)
    with archive(tmp_path / "archive", free_port), Destination("NODE", peer_at(free_port)) as to:
        to.connect([SR])
        first = to._assoc
        assert first is not None
        first.join(3)
        assert first.is_released
        to.connect([SR])
        assert to.store(report(tmp_path)) == 0


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"port": 1}, "refuses connections; is it running"),
        ({"host": "no-such-host.invalid"}, "cannot be resolved"),
    ],
)
def test_what_cannot_be_reached_says_why(change: dict[str, object], advice: str) -> None:
    peer = peer_at(4242).model_copy(update=change)
    with pytest.raises(Unreachable, match=advice):
        scu.echo("NODE", peer)


def test_a_port_that_speaks_no_dicom_says_so(free_port: int) -> None:
    def hang_up(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.recv(10)
        connection.close()

    with socket.create_server(("127.0.0.1", free_port)) as server:
        other = threading.Thread(target=hang_up, args=(server,))
        other.start()
        with pytest.raises(Unreachable, match="is it a DICOM port"):
            scu.echo("NODE", peer_at(free_port))
        other.join()


@pytest.mark.parametrize(
    ("own", "called", "advice"),
    [
        ("STRANGER", "CHEXFRACT", "does not know the calling AE title 'STRANGER'"),
        ("MODALITY", "OTHER", "it is not called 'OTHER'"),
    ],
)
def test_a_rejection_is_advice(tmp_path: Path, own: str, called: str, advice: str) -> None:
    with listening(tmp_path) as node:
        peer = peer_at(node.port).model_copy(update={"ae_title": called})
        with pytest.raises(Unreachable, match=advice):
            scu.echo(own, peer)
        assert scu.echo("MODALITY", peer.model_copy(update={"ae_title": "CHEXFRACT"})) > 0


def test_tls_goes_both_ways_between_our_own_ends(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for name in ("node", "modality"):
        pem = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        pem.write_to_path(tmp_path / f"{name}.pem")
    ours = Tls(certificate=tmp_path / "modality.pem", ca=tmp_path / "ca.pem")
    tls = {"certificate": tmp_path / "node.pem", "ca": tmp_path / "ca.pem"}
    with listening(tmp_path, tls=tls) as node:
        peer = peer_at(node.port, tls=ours).model_copy(update={"ae_title": "CHEXFRACT"})
        assert scu.echo("MODALITY", peer) > 0
        image = written(tmp_path, radiograph())
        assert scu.send("MODALITY", peer, [image]) == scu.SendResult(1, 0)
        doubtful = peer.model_copy(update={"tls": Tls(ca=tmp_path / "other.pem")})
        with pytest.raises(Unreachable, match="its certificate is not trusted"):
            scu.echo("MODALITY", doubtful)


PROFILES = {"BCP 195": "+px", "non-downgrading": "+py", "extended": "+pz"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_reports_reach_an_archive_that_wants_mutual_tls(
    tmp_path: Path, free_port: int, profile: str
) -> None:
    """DCMTK has the TLS profiles of PS3.15 B.9, B.10 and B.11."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issuer in (("archive", authority), ("node", authority), ("other", trustme.CA())):
        pem = issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        pem.write_to_path(tmp_path / f"{name}.pem")
    both = str(tmp_path / "archive.pem")
    options = ["+tls", both, both, "+cf", str(tmp_path / "ca.pem"), "-rc", profile]
    with archive(tmp_path / "archive", free_port, *options):
        trusted = Tls(certificate=tmp_path / "node.pem", ca=tmp_path / "ca.pem")
        with Destination("NODE", peer_at(free_port, tls=trusted)) as to:
            to.connect([SR])
            assert to.store(report(tmp_path)) == 0
        other = Tls(certificate=tmp_path / "other.pem", ca=tmp_path / "ca.pem")
        with pytest.raises(Unreachable):
            scu.echo("NODE", peer_at(free_port, tls=other))
        with pytest.raises(Unreachable):
            scu.echo("NODE", peer_at(free_port))
    assert len(stored(tmp_path / "archive")) == 1


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_modalities_reach_the_listener_by_mutual_tls(tmp_path: Path, profile: str) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("node", "modality"):
        pem = authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem
        pem.write_to_path(tmp_path / f"{name}.pem")
    both = str(tmp_path / "modality.pem")
    options = ["+tls", both, both, "+cf", str(tmp_path / "ca.pem"), "-ic", profile]
    to = ["-aet", "MODALITY", "-aec", "CHEXFRACT", "127.0.0.1"]
    tls = {"certificate": tmp_path / "node.pem", "ca": tmp_path / "ca.pem"}
    with listening(tmp_path, tls=tls) as node:
        image = str(written(tmp_path, radiograph()))
        done = subprocess.run(
            [need("storescu"), *options, *to, str(node.port), image], capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert len(node.kept) == 1


def test_files_are_sent_in_their_own_transfer_syntax(tmp_path: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "chest").glob("*.dcm"))
    answers: list[tuple[str, int | None, str]] = []
    with Archive("ARCHIVE", tmp_path / "archive") as kept:
        wrong = tmp_path / "wrong.dcm"
        wrong.write_bytes(b"no DICOM")
        sent = scu.send(
            "NODE",
            peer_at(kept.port),
            [*files, wrong],
            lambda path, status, reason: answers.append((path.name, status, reason)),
        )
        assert kept.wait_for(4, 5)
    assert sent == scu.SendResult(len(files), 1)
    assert [(status, reason) for _, status, reason in answers if status == 0] == [(0, "")] * len(
        files
    )
    wrong_reason = next(reason for name, _, reason in answers if name == "wrong.dcm")
    assert wrong_reason.endswith("not a DICOM file")
    syntaxes = {ds.file_meta.TransferSyntaxUID for ds in stored(tmp_path / "archive")}
    assert syntaxes <= {dcmread(path).file_meta.TransferSyntaxUID for path in files}


def test_a_file_that_is_not_dicom_is_not_understood(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.dcm"
    wrong.write_bytes(b"no DICOM")
    with pytest.raises(NotUnderstood, match="is not a DICOM file"):
        Destination("NODE", peer_at(4242)).store(wrong)


def test_statuses_have_words() -> None:
    assert status.fault(0) == status.fault(0xB007) == ""
    assert status.fault(0xA700) == "0xA700 out of resources"
    assert status.fault(0xC123) == "0xC123 cannot understand"
    assert status.fault(0x0122) == "0x0122 SOP class not supported"


def test_an_interrupted_association_keeps_no_process_alive() -> None:
    ask = "from dicom_node.dimse import scu; from dicom_node.settings import Peer; import sys; "
    ask += "scu.echo('ASKS', Peer(ae_title='SILENT', host='127.0.0.1', "
    ask += "port=int(sys.argv[1]), timeout=100))"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = [sys.executable, "-c", ask, str(silent.getsockname()[1])]
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as asking:  # fmt: skip
            try:
                with silent.accept()[0] as connection:
                    assert connection.recv(1) == b"\1"  # A-ASSOCIATE-RQ, which gets no answer
                    asking.send_signal(signal.SIGINT)
                    assert asking.wait(20) != 0
            finally:
                asking.kill()
