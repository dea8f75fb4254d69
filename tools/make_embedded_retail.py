"""Makes the Online Retail files that ship with the package, from the maker's invoices.

    python tools/make_embedded_retail.py online_retail.csv.gz [DIRECTORY]

Writes into ``src/corral/data/embedded`` where no directory is given, and prints sizes and counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from corral.data.embedded import EVENTS, ITEMS, USERS, write_folder
from corral.data.readers import online_retail


def main(arguments: list[str]) -> int:
    """Reads the invoices named first, writes the files to the directory named second."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parent.parent
    folder = Path(arguments[1]) if len(arguments) == 2 else root / "src/corral/data/embedded"
    interactions = online_retail.read(arguments[0])
    write_folder(interactions, folder)
    for name in (EVENTS, USERS, ITEMS):
        print(f"{name}: {(folder / name).stat().st_size:,} bytes")
    events = interactions.events
    users, items = events["user_id"].n_unique(), events["item_id"].n_unique()
    print(f"{len(events):,} purchases, {users:,} customers, {items:,} items")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
