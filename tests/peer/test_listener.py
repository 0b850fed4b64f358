"""What real DCMTK modalities send is kept durably, in each transfer syntax, or refused by name."""

import hashlib
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from listening import CR, DX, ModalityStation, Node, listening, radiograph, written
from peers import need
from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE

pytestmark = pytest.mark.peer

UNCOMPRESSED = {"explicit": "-xe", "implicit": "-xi", "big endian": "-xb", "deflated": "-xd"}
COMPRESSED = {
    "1.2.840.10008.1.2.4.70": ["dcmcjpeg", "+e1"],
    "1.2.840.10008.1.2.4.57": ["dcmcjpeg", "+el"],
    "1.2.840.10008.1.2.4.51": ["dcmcjpeg", "+ee"],
    "1.2.840.10008.1.2.4.80": ["dcmcjpls", "+el"],
    "1.2.840.10008.1.2.4.81": ["dcmcjpls", "+en"],
    "1.2.840.10008.1.2.5": ["dcmcrle"],
}


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need(program), *map(str, arguments)], capture_output=True, text=True, timeout=30
    )


def as_modality(
    program: str, node: Node, *rest: object, calling: str = "MODALITY", called: str = "CHEXFRACT"
) -> subprocess.CompletedProcess[str]:
    options = [rest_ for rest_ in rest if str(rest_).startswith(("-", "+"))]
    files = [rest_ for rest_ in rest if rest_ not in options]
    to = ["-aet", calling, "-aec", called, *options, "127.0.0.1", node.port, *files]
    return run(program, *to)


def kept_as(node: Node, path: Path) -> tuple[Path, str]:
    """Return the file that the node kept for the Instance in `path`, and its transfer syntax."""
    instance = node.ledger.instances.known(
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    )
    assert instance is not None
    return node.spool.path(instance.file), instance.transfer_syntax_uid


def test_a_modality_is_verified(node: Node) -> None:
    assert as_modality("echoscu", node).returncode == 0


@pytest.mark.parametrize("option", UNCOMPRESSED.values(), ids=UNCOMPRESSED)
def test_an_uncompressed_instance_is_kept_with_its_pixels(
    node: Node, tmp_path: Path, option: str
) -> None:
    sent = written(tmp_path, radiograph(CR))
    assert as_modality("storescu", node, option, sent).returncode == 0
    file, _ = kept_as(node, sent)
    kept, source = dcmread(file), dcmread(sent)
    assert kept.pixel_array.tolist() == source.pixel_array.tolist()
    assert kept.PatientID == "T1"


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_compressed_instance_is_kept_as_it_came(node: Node, tmp_path: Path, syntax: str) -> None:
    program, *options = COMPRESSED[syntax]
    plain, sent = written(tmp_path, radiograph(), "plain.dcm"), tmp_path / "sent.dcm"
    assert run(program, *options, plain, sent).returncode == 0
    assert as_modality("dcmsend", node, "-dn", sent).returncode == 0
    file, kept_syntax = kept_as(node, sent)
    assert kept_syntax == syntax
    assert dcmread(file).PixelData == dcmread(sent).PixelData


def test_real_radiographs_are_kept_as_they_are(node: Node, shared_data: Path) -> None:
    """Two of them bear one UID with different content: the second is kept apart."""
    sent = sorted((shared_data / "chest").glob("*.dcm"))
    assert as_modality("dcmsend", node, "-dn", *sent).returncode == 0
    kept = [*node.kept, *(node.spool.root / "conflicts").rglob("*.dcm")]
    assert {pixels(path) for path in sent} <= {pixels(path) for path in kept}
    ours = {pixels(path) for path in sent}
    assert len([path for path in kept if pixels(path) in ours]) == len(sent)


def pixels(path: Path) -> str:
    return hashlib.sha256(dcmread(path, force=True).PixelData).hexdigest()


def test_the_hash_of_one_that_comes_again_is_that_of_its_data_set(
    node: Node, tmp_path: Path
) -> None:
    sent = written(tmp_path, radiograph())
    for _ in range(2):
        assert as_modality("dcmsend", node, sent).returncode == 0
    instance = node.ledger.instances.known(dcmread(sent).SOPInstanceUID)
    assert instance is not None
    content = node.spool.path(instance.file).read_bytes()
    meta = 144 + int.from_bytes(content[140:144], "little")
    assert instance.sha256 == hashlib.sha256(content[meta:]).hexdigest()


def test_the_kept_file_bears_our_own_implementation_and_an_empty_preamble(
    node: Node, tmp_path: Path
) -> None:
    ds = radiograph()
    ds.preamble = b"#!/bin/sh\n" + bytes(118)
    sent = written(tmp_path, ds)
    assert as_modality("storescu", node, sent).returncode == 0
    file, _ = kept_as(node, sent)
    assert file.read_bytes()[:128] == bytes(128)
    assert dcmread(file).file_meta.ImplementationVersionName.startswith("CHEXFRACT")


def test_the_same_instance_again_is_success_and_kept_once(node: Node, tmp_path: Path) -> None:
    sent = written(tmp_path, radiograph())
    before = len(node.kept)
    for _ in range(2):
        assert as_modality("storescu", node, sent).returncode == 0
    assert len(node.kept) == before + 1
    uid = dcmread(sent).SOPInstanceUID
    assert [row.resends for row in node.ledger.history.recent(search=uid)] == [1]


def test_a_stat_image_is_ordered_before_the_others(node: Node, modality: ModalityStation) -> None:
    ds = radiograph()
    assert modality.store(ds, priority=1).Status == 0
    instance = node.ledger.instances.known(ds.SOPInstanceUID)
    assert instance is not None
    assert (instance.priority, instance.calling_ae) == (1, "MODALITY")


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("STRANGER", "CHEXFRACT", "Calling AE Title Not Recognized"),
        ("MODALITY", "ANOTHER", "Called AE Title Not Recognized"),
    ],
)
def test_an_unknown_ae_title_is_rejected_by_name(
    node: Node, caplog: pytest.LogCaptureFixture, calling: str, called: str, reason: str
) -> None:
    refused = as_modality("echoscu", node, calling=calling, called=called)
    assert refused.returncode != 0
    assert "Rejected Permanent" in refused.stderr
    assert reason in refused.stderr
    assert sum("rejected the association" in line for line in caplog.messages) == 1
    assert f"{calling}@127.0.0.1" in caplog.text


def test_a_known_title_from_an_unknown_address_is_rejected(tmp_path: Path) -> None:
    with listening(tmp_path) as node:
        far = {"modality": node.settings.peers["modality"].model_copy(update={"host": "192.0.2.7"})}
        node.listener._settings = node.settings.model_copy(update={"peers": far})
        refused = as_modality("echoscu", node)
        assert "Calling AE Title Not Recognized" in refused.stderr


def test_other_objects_find_no_presentation_context(node: Node, tmp_path: Path) -> None:
    ds = radiograph("1.2.840.10008.5.1.4.1.1.2")
    before = len(node.kept)
    refused = as_modality("storescu", node, written(tmp_path, ds))
    assert refused.returncode != 0
    assert "No presentation context for: (CT)" in refused.stderr
    assert len(node.kept) == before


def test_a_full_disk_rejects_storage_but_still_verifies(tmp_path: Path) -> None:
    with listening(tmp_path) as node:
        node.spool.min_free = 1 << 62
        refused = as_modality("storescu", node, written(tmp_path, radiograph()))
        assert "Rejected Transient" in refused.stderr
        assert "Temporary Congestion" in refused.stderr
        assert as_modality("echoscu", node).returncode == 0
        assert node.kept == node.unfinished == []


def test_a_disk_that_fills_up_is_answered_out_of_resources(tmp_path: Path) -> None:
    with listening(tmp_path) as node:
        node.listener._has_room = lambda: True  # it was there when the association began
        node.spool.min_free = 1 << 62
        refused = as_modality("storescu", node, "-v", written(tmp_path, radiograph()))
        assert "0xa700" in refused.stderr.lower() or "OutOfResources" in refused.stderr
        assert node.kept == node.unfinished == []
        node.spool.min_free = 0
        assert as_modality("storescu", node, tmp_path / "image.dcm").returncode == 0


def test_tls_is_mutual_and_plain_callers_are_turned_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import trustme

    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "node", "modality", "stranger")}
    authority.cert_pem.write_to_path(files["ca"])
    for name, issuer in (("node", authority), ("modality", authority), ("stranger", trustme.CA())):
        pem = issuer.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem
        pem.write_to_path(files[name])
    tls = {"certificate": files["node"], "ca": files["ca"]}

    def echo(who: str) -> subprocess.CompletedProcess[str]:
        # Two files of the same PEM: DCMTK wants the key apart.
        options = ["+tls", files[who], files[who], "+cf", files["ca"], "-ic"]
        arguments = ["-aet", "MODALITY", "-aec", "CHEXFRACT", *options, "127.0.0.1", node.port]
        return run("echoscu", *arguments)

    with listening(tmp_path, tls=tls) as node:
        assert echo("modality").returncode == 0
        assert echo("stranger").returncode != 0
        assert as_modality("echoscu", node).returncode != 0
    assert "TLS handshake failed" in caplog.text


class Bound:
    """Two peers of one AE title and address, each known by its certificate alone."""

    def __init__(self, folder: Path) -> None:
        import trustme

        authority, self.folder = trustme.CA(), folder
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        for name, issuer in (
            ("node", authority),
            ("sends", authority),
            ("asks", authority),
            ("third", authority),
            ("forged", trustme.CA()),
        ):
            subject = "sends" if name == "forged" else name
            made = issuer.issue_cert("127.0.0.1", common_name=subject, organization_name="Site")
            made.private_key_and_cert_chain_pem.write_to_path(self.pem(name))
        text = self.pem("asks").read_text()
        der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERT") :])
        peer = {"ae_title": "TWIN", "host": "127.0.0.1"}
        self.peers = {
            "sends": peer | {"port": 1, "certificate": "CN=sends,O=Site", "may": ["store"]},
            "asks": peer
            | {"port": 2, "certificate": hashlib.sha256(der).hexdigest(), "may": ["query"]},
        }
        self.tls = {"certificate": self.pem("node"), "ca": self.ca}

    def pem(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def options(self, name: str | None) -> list[Any]:
        # Two files of the same PEM: DCMTK wants the key apart.
        own = ["+tls", self.pem(name), self.pem(name)] if name else ["+tla"]
        return [*own, "+cf", self.ca, "-aet", "TWIN", "-aec", "CHEXFRACT", "127.0.0.1"]

    def context(self, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if name:
            context.load_cert_chain(self.pem(name))
        return context


def test_a_certificate_says_which_of_two_twins_calls_and_what_it_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bound = Bound(tmp_path)
    image = written(tmp_path, radiograph())
    with listening(tmp_path, peers=bound.peers, tls=bound.tls) as node:

        def store(name: str | None) -> subprocess.CompletedProcess[str]:
            return run("storescu", *bound.options(name), node.port, image)

        assert store("sends").returncode == 0
        assert len(node.kept) == 1
        refused = store("asks")  # the certificate of the other peer
        assert refused.returncode != 0
        assert "No Acceptable Presentation Contexts" in refused.stderr
        assert "peer asks may not store" in caplog.text

        refused = store("third")  # of the same authority, but of no peer
        assert "Calling AE Title Not Recognized" in refused.stderr
        assert "peer sends has a certificate with the subject CN=sends" in caplog.text

        for name in ("forged", None):
            assert store(name).returncode != 0
        assert caplog.text.count("TLS handshake failed") == 2
        assert len(node.kept) == 1

        find = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID"]
        asked = run("findscu", *find, *bound.options("asks"), node.port)
        assert asked.returncode == 0, asked.stderr
        refused = run("findscu", *find, *bound.options("sends"), node.port)
        assert "No Acceptable Presentation Contexts" in refused.stderr
        assert "peer sends may not query" in caplog.text


@pytest.mark.parametrize(
    ("name", "takes"),
    [("sends", True), ("asks", False), ("third", None), ("forged", None), (None, None)],
)
def test_a_pynetdicom_peer_is_held_to_its_certificate(
    tmp_path: Path, name: str | None, takes: bool | None
) -> None:
    """``takes``: whether storage is accepted; None where there is no association."""
    bound = Bound(tmp_path)
    with listening(tmp_path, peers=bound.peers, tls=bound.tls) as node:
        entity = AE("TWIN")
        entity.acse_timeout = entity.network_timeout = entity.connection_timeout = 30
        entity.add_requested_context(DX)
        entity.add_requested_context("1.2.840.10008.1.1")
        assoc = entity.associate(
            "127.0.0.1",
            node.port,
            ae_title="CHEXFRACT",
            tls_args=(bound.context(name), "127.0.0.1"),
        )
        assert assoc.is_established is (takes is not None)
        if takes is None:
            return
        assert assoc.send_c_echo().Status == 0
        accepted = {str(one.abstract_syntax) for one in assoc.accepted_contexts}
        assert (DX in accepted) is takes
        if takes:
            assert assoc.send_c_store(radiograph()).Status == 0
            assert len(node.kept) == 1
        assoc.release()


def test_a_stopping_listener_lets_a_store_end_and_ends_itself(tmp_path: Path) -> None:
    with listening(tmp_path) as node:
        files = [
            written(tmp_path, radiograph(rows=1500, columns=1500), f"{i}.dcm") for i in range(4)
        ]
        sender = subprocess.Popen(
            [need("storescu"), "-aet", "MODALITY", "-aec", "CHEXFRACT", "127.0.0.1", str(node.port)]
            + [str(file) for file in files],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not node.listener._slots.open():
            time.sleep(0.005)
        started = time.monotonic()
        node.listener.stop()
        assert time.monotonic() - started < 10
        sender.wait(10)
        assert node.unfinished == []
        assert len(node.kept) == len(node.ledger.history.recent())


def test_uids_of_dcmtk_and_ours_are_the_same(node: Node, tmp_path: Path) -> None:
    """A UID that pydicom calls invalid but that is in use, with a leading zero, is taken."""
    ds = radiograph()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID("1.2.3.00045.6")
    path = tmp_path / "odd.dcm"
    shutil.copy(written(tmp_path, radiograph()), path)
    ds.save_as(path, enforce_file_format=False)
    assert as_modality("storescu", node, path).returncode == 0
    assert node.ledger.instances.known("1.2.3.00045.6") is not None
