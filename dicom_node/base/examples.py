"""Examples of each command of both programs, shown by ``--help`` and in the manual."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "chexfract-node demo": ("chexfract-node demo", "chexfract-node demo --keep --count 20"),
    "chexfract-node serve": (
        "chexfract-node serve",
        "chexfract-node serve --config /etc/chexfract/node.toml --with-worker worker.toml",
    ),
    "chexfract-node reload": ("chexfract-node reload",),
    "chexfract-node status": (
        "chexfract-node status --limit 30",
        "chexfract-node status --json",
    ),
    "chexfract-node trace": (
        "chexfract-node trace 1.2.826.0.1.3680043.8.498.1",
        "chexfract-node trace A-2026-0117 --json",
    ),
    "chexfract-node logs": (
        "chexfract-node logs --follow",
        "chexfract-node logs 1.2.826.0.1.3680043.8.498.1",
        "chexfract-node logs --level warning --limit 20",
    ),
    "chexfract-node retry": (
        "chexfract-node retry 1.2.826.0.1.3680043.8.498.1",
        "chexfract-node retry --failed",
    ),
    "chexfract-node resend": ("chexfract-node resend 1.2.826.0.1.3680043.8.498.1",),
    "chexfract-node replay": ("chexfract-node replay 1.2.826.0.1.3680043.8.498.1",),
    "chexfract-node release": ("chexfract-node release 1.2.826.0.1.3680043.8.498.1",),
    "chexfract-node settle": (
        "chexfract-node settle 1.2.826.0.1.3680043.8.498.1 --as sent",
        "chexfract-node settle 1.2.826.0.1.3680043.8.498.1 --as given-up --to archive",
    ),
    "chexfract-node adopt": ("chexfract-node adopt 1.2.826.0.1.3680043.8.498.1",),
    "chexfract-node hold": (
        "chexfract-node hold destination archive --why 'it moves tonight'",
        "chexfract-node hold model phantom",
    ),
    "chexfract-node let-go": ("chexfract-node let-go destination archive",),
    "chexfract-node purge": ("chexfract-node purge",),
    "chexfract-node send": (
        "chexfract-node send --test --to archive",
        "chexfract-node send report.dcm --to archive",
    ),
    "chexfract-node pull": (
        "chexfract-node pull --from archive --accessions list.txt --out images --deidentify",
    ),
    "chexfract-node echo": ("chexfract-node echo archive",),
    "chexfract-node config check": ("chexfract-node config check --config node.toml",),
    "chexfract-node config show": ("chexfract-node config show --json",),
    "chexfract-node config schema": ("chexfract-node config schema",),
    "chexfract-node config history": ("chexfract-node config history --limit 50",),
    "chexfract-node config undo": (
        "chexfract-node config undo 7 --dry-run",
        "chexfract-node config undo 7",
    ),
    "chexfract-node peer list": ("chexfract-node peer list --json",),
    "chexfract-node peer add": (
        "chexfract-node peer add archive ae_title=PACS host=10.0.0.7 port=104",
    ),
    "chexfract-node peer change": (
        "chexfract-node peer change archive objects=sr,pdf timeout=60s",
        "chexfract-node peer change archive timeout= --dry-run",
    ),
    "chexfract-node peer remove": ("chexfract-node peer remove archive",),
    "chexfract-node rule list": ("chexfract-node rule list",),
    "chexfract-node rule add": (
        "chexfract-node rule add chests match.modality=CR,DX model=phantom mode=shadow",
    ),
    "chexfract-node rule change": (
        "chexfract-node rule change chests match.view=PA,AP send_to=archive",
    ),
    "chexfract-node rule remove": ("chexfract-node rule remove chests",),
    "chexfract-node rule move": ("chexfract-node rule move chests --to 1",),
    "chexfract-node rules test": ("chexfract-node rules test chest.dcm",),
    "chexfract-node user add": (
        "chexfract-node user add jane --role operator",
        "chexfract-node user add jane --role admin --password-file password.txt",
    ),
    "chexfract-node user remove": ("chexfract-node user remove jane",),
    "chexfract-node user list": ("chexfract-node user list",),
    "chexfract-node init": (
        "chexfract-node init",
        "chexfract-node init --archive-ae ORTHANC --archive-host 10.0.0.7 --archive-port 4242 "
        "--yes",
        "chexfract-node init --certificate node.example.org",
    ),
    "chexfract-node certificate": (
        "chexfract-node certificate --name node.example.org",
        "chexfract-node certificate --copy-ca ca.pem",
    ),
    "chexfract-node doctor": ("chexfract-node doctor", "chexfract-node doctor --json"),
    "chexfract-node selftest": ("chexfract-node selftest", "chexfract-node selftest --to archive"),
    "chexfract-node conformance": (
        "chexfract-node conformance --config node.toml",
        "chexfract-node conformance --format json",
    ),
    "chexfract-node export": (
        "chexfract-node export --since 2026-11-01 --out november.csv",
        "chexfract-node export --since 2026-11-01 --until 2026-12-01 --format jsonl",
    ),
    "chexfract-node capacity": (
        "chexfract-node capacity --per-day 50000 --model-seconds 0.5",
        "chexfract-node capacity --per-day 1000 --config node.toml --json",
    ),
    "chexfract-node backup": ("chexfract-node backup /var/backups/chexfract",),
    "chexfract-node restore": ("chexfract-node restore /var/backups/chexfract",),
    "chexfract-node manual": (
        "chexfract-node manual",
        "chexfract-node manual how-to/backup",
    ),
    "chexfract-node completion": ("chexfract-node completion bash",),
    "chexfract-worker run": (
        "chexfract-worker run --config worker.toml",
        "chexfract-worker run --devices cuda:0,cuda:1",
    ),
    "chexfract-worker serve": ("chexfract-worker serve --config worker.toml",),
    "chexfract-worker describe": (
        "chexfract-worker describe FOLDER --out run1",
        "chexfract-worker describe pngs.zip --out run2 --identifiers pngs.csv",
    ),
    "chexfract-worker picture": (
        "chexfract-worker picture chest.dcm --out chest.png",
        "chexfract-worker picture chest.dcm --out steps.png --stages",
    ),
    "chexfract-worker gate": ("chexfract-worker gate chest.dcm",),
    "chexfract-worker parse": (
        "chexfract-worker parse < texts.txt",
        "echo 'No displaced rib fracture.' | chexfract-worker parse --why",
    ),
    "chexfract-worker validate": ("chexfract-worker validate report.dcm",),
    "chexfract-worker evaluate": (
        "chexfract-worker evaluate run1 --labels labels.csv --by Sex",
        "chexfract-worker evaluate --counts 40 10 5 145",
    ),
    "chexfract-worker compare": (
        "chexfract-worker compare run1 run2 --labels labels.csv --html comparison.html",
    ),
    "chexfract-worker phantom draw": ("chexfract-worker phantom draw --count 20 --out phantoms",),
    "chexfract-worker phantom weaken": (
        "chexfract-worker phantom weaken --out weakened --noise 0.7",
    ),
    "chexfract-worker phantom train": ("chexfract-worker phantom train --out model",),
    "chexfract-worker phantom evaluate": ("chexfract-worker phantom evaluate --count 200",),
    "chexfract-worker model list": ("chexfract-worker model list",),
    "chexfract-worker model fetch": (
        "chexfract-worker model fetch chexfract-maira2 --to /models/chexfract-maira2",
    ),
    "chexfract-worker model verify": ("chexfract-worker model verify chexfract-maira2",),
    "chexfract-worker model accept": (
        "chexfract-worker model accept chexfract-maira2",
        "chexfract-worker model accept /models/chexfract-maira2 --by 'A. Reader' --config "
        "worker.toml",
    ),
    "chexfract-worker doctor": ("chexfract-worker doctor --config worker.toml",),
    "chexfract-worker config check": ("chexfract-worker config check --config worker.toml",),
    "chexfract-worker config schema": ("chexfract-worker config schema",),
    "chexfract-worker completion": ("chexfract-worker completion bash",),
}
"""Command lines by the command they show; a test lets the parsers read each."""
