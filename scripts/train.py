#!/usr/bin/env python
"""Train from a configuration file: python scripts/train.py --config configs/cpu_small_model.yaml --output_dir DIR

The same as ``llm-trainer train``, under the name and with the flags of the documentation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llm_trainer.cli.train import run_training
from llm_trainer.common.environment import setup_environment
from llm_trainer.common.errors import UserError


def main() -> int:
    """Parse, train, and turn what a person can put right into one message."""
    parser = argparse.ArgumentParser(description="Train a language model from a configuration file.")
    parser.add_argument("--config", required=True, help="a .yaml or .json file")
    parser.add_argument("--output_dir", "--output-dir", type=Path, help="folder of the run; left out: under runs/")
    parser.add_argument("--resume", action="store_true", help="continue the newest good checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained; write nothing")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="settings that win over the file")
    options = parser.parse_intermixed_args()
    setup_environment()
    try:
        run_training(
            options.config,
            options.overrides,
            output_dir=options.output_dir,
            resume=options.resume,
            dry_run=options.dry_run,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
