"""Paths in a configuration. They are absolute as soon as it is made, since actors may run in another directory."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

HUB = "hf:"
"""Prefix of the path of a data set that the `datasets` library looks up."""
ROOT = "root"
"""Key of a validation's context: the directory that relative paths are taken from."""


def _absolute(path: str, info: ValidationInfo) -> str:
    if "://" in path or path.startswith(HUB):
        return path
    root = (info.context or {}).get(ROOT) or Path.cwd()
    return os.path.abspath(Path(root) / Path(path).expanduser())


def _in_file(function: str) -> str:
    file, _, name = function.rpartition(":")
    if not file or not name or file == "builtin":
        return function  # a name, or a mistake that is said where the function is looked up
    return f"{os.path.abspath(Path(file).expanduser())}:{name}"


PathText = Annotated[str, AfterValidator(_absolute), Field(json_schema_extra={"format": "path"})]
"""A file, a directory or an address. A relative path is taken from the root of the job, by default the current
directory; addresses (`scheme://…`) and `hf:NAME` stay."""
FunctionText = Annotated[str, AfterValidator(_in_file)]
"""`path/to/file.py:function`, or the name of a built-in function. Code is where the job runs, so that its path is taken
from the current directory, whatever the root."""
