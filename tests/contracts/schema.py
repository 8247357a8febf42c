"""Snapshot of the data contract. `python -m tests.contracts.schema` writes it anew after a change that is meant.

A change of a table is a change for everyone's files: raise SCHEMA_VERSION with it.
"""

import json
from pathlib import Path
from typing import Any

from mmrlhf_ray.schema import SCHEMA_VERSION, TABLES

SNAPSHOT = Path(__file__).with_name("schema.json")


def current() -> dict[str, Any]:
    tables = {name: {field.name: str(field.type) for field in schema} for name, schema in TABLES.items()}
    return {"schema_version": SCHEMA_VERSION, "tables": tables}


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current(), indent=1) + "\n")
