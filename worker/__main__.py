"""``python -m worker`` does what ``chexfract-worker`` does."""

from worker.cli import main

raise SystemExit(main())
