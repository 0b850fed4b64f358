"""Build reports a second time from image, order and model version, as a later attempt would."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from dicom_node.base.job import ReportOrder
from worker.image.decode import Decoder
from worker.pipeline import Pipeline
from worker.settings import Pixels

from .worker import DrillModel


def main() -> None:
    """Read jobs as JSON lines; answer each with UID and hash of its report's data set."""
    with Decoder() as decoder:
        for line in sys.stdin:
            job = json.loads(line)
            # "0.1.0+drill-2.7b0558e2": behind the model's version stands a digest of its options
            version = job["model_version"].rpartition("-")[2].partition(".")[0]
            model = DrillModel(version, 0.0)
            pipeline = Pipeline(model, decoder, Pixels(screening="off"))
            case = pipeline.prepare(Path(job["file"]).read_bytes())
            pipeline.describe([case])
            order = ReportOrder.model_validate_json(job["report_order"])
            (document,) = pipeline.build(case, order).documents
            answer = {"report": document.sop_instance_uid, "sha256": _hash(document.content)}
            print(json.dumps({"source": job["sop_instance_uid"], **answer}))


def _hash(content: bytes) -> str:
    """Return the hash of a Part 10 file without its head (DICOM PS3.10 7.1)."""
    start = 144 + int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[start:]).hexdigest()


if __name__ == "__main__":
    main()
