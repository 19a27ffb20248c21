"""Generates the protocol modules before a wheel, an sdist or an editable install is made."""

import pathlib
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        import generate

        # An sdist carries what was generated and has no ../../proto.
        if generate.PROTO_ROOT.is_dir():
            generate.main()
        elif not (pathlib.Path(self.root) / "src/finetuned/v1/jobs_pb2.py").is_file():
            raise RuntimeError(f"{generate.PROTO_ROOT} is missing: build the client inside the repository")
