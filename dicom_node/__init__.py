"""Receives, keeps and delivers Instances.

The route of an Instance:

1. `dimse.scp` takes it from an Association and hands it to `flow.intake`.
2. `flow.intake` writes it to `store.spool`, decides by `flow.routing`, and records it and its jobs
   in `store.ledger`; only then is C-STORE answered with 0x0000.
3. `flow.dispatch` hands jobs out over `flow.broker`; a worker redeems them at `web.jobs`.
4. A posted report is kept in the spool; `flow.deliver` stores it at each destination by
   `dimse.scu`.
"""

from dicom_node.base.version import __version__ as __version__
