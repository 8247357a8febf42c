"""Paths in a configuration. They are absolute as soon as it is made, since actors may run in another directory."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

HUB = "hf:"
"""Prefix of the path of a data set that the `datasets` library looks up, and of a model of Hugging Face."""
MODELSCOPE = "ms:"
"""Prefix of the path of a model of ModelScope."""
MAY_FETCH = "MMRLHF_MAY_FETCH"
"""Environment variable: HF_HUB_OFFLINE was set by the command, not by the user."""
_HUB_MODEL = re.compile(r"(hf|ms):[\w.-]+/[\w.-]+(@[\w./-]+)?")
ROOT = "root"
"""Key of a validation's context: the directory that relative paths are taken from."""


def _absolute(path: str, info: ValidationInfo) -> str:
    if "://" in path or path.startswith(HUB):
        return path
    root = (info.context or {}).get(ROOT) or Path.cwd()
    return os.path.abspath(Path(root) / Path(path).expanduser())


def _model(path: str, info: ValidationInfo) -> str:
    if not path.startswith((HUB, MODELSCOPE)):
        return _absolute(path, info)
    if not _HUB_MODEL.fullmatch(path):
        raise ValueError(f"path={path}: expected {path[:3]}ORG/NAME or {path[:3]}ORG/NAME@REVISION, or a directory")
    return path


def _in_file(function: str) -> str:
    file, _, name = function.rpartition(":")
    if not file or not name or file == "builtin":
        return function  # a name, or a mistake that is said where the function is looked up
    return f"{os.path.abspath(Path(file).expanduser())}:{name}"


PathText = Annotated[str, AfterValidator(_absolute), Field(json_schema_extra={"format": "path"})]
"""A file, a directory or an address. A relative path is taken from the root of the job, by default the current
directory; addresses (`scheme://…`) and `hf:NAME` stay."""
ModelText = Annotated[str, AfterValidator(_model), Field(json_schema_extra={"format": "path"})]
"""A directory, as PathText, or a model on a hub: `hf:ORG/NAME`, `ms:ORG/NAME`, with `@REVISION` behind it."""
FunctionText = Annotated[str, AfterValidator(_in_file)]
"""`path/to/file.py:function`, or the name of a built-in function. Code is where the job runs, so that its path is taken
from the current directory, whatever the root."""
