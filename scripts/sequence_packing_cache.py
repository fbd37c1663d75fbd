#!/usr/bin/env python
"""Pack text into a token cache: python scripts/sequence_packing_cache.py [--mode inverse] [--force-rebuild]

The same as ``llm-trainer data pack``, under the name and with the flags of the documentation.
"""

from __future__ import annotations

import sys

import typer

from llm_trainer.cli.data import pack
from llm_trainer.common.environment import setup_environment
from llm_trainer.common.errors import UserError


def main() -> int:
    """Parse, pack, and turn what a person can put right into one message."""
    setup_environment()
    app = typer.Typer(add_completion=False)
    app.command()(pack)
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
