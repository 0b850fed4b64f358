"""The truth on disk: spool, ledger, retention."""
