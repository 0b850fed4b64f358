"""Migrations of the ledger, run by `store.ledger.Ledger.upgrade`."""
