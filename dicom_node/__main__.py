"""``python -m dicom_node`` does what ``chexfract-node`` does."""

from dicom_node.cli import main

raise SystemExit(main())
