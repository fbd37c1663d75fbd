"""Text files as a stream of blocks, so that a file larger than memory can train a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from llm_trainer.common.errors import DataError, UserError

_BLOCK_CHARACTERS = 1_000_000


def read_text_blocks(
    paths: str | Path | Iterable[str | Path], *, errors: Literal["error", "replace"] = "error"
) -> Iterator[str]:
    """Yield the text of UTF-8 files in blocks of about a million characters that end at the end of a line.

    Args:
        paths: one file or several.
        errors: what to do about bytes that are not UTF-8: refuse the file, or ``"replace"`` them with U+FFFD.

    Raises:
        DataError: a file is missing, is a folder, cannot be read or is not UTF-8; the message names it.
        UserError: ``errors`` is something else.
    """
    if errors not in ("error", "replace"):
        raise UserError(f"errors is {errors!r}", hint='use "error" or "replace"')
    names = [paths] if isinstance(paths, str | Path) else paths
    for name in names:
        path = Path(name)
        try:
            yield from _blocks(path, errors)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x})",
                hint=f"convert it first, for example: iconv -f LATIN1 -t UTF-8 {path.name} > converted.txt; "
                'or, if only a few bytes are damaged, pass errors="replace"',
            ) from None
        except FileNotFoundError:
            raise DataError(f"{path} does not exist", hint="check the path") from None
        except IsADirectoryError:
            raise DataError(f"{path} is a folder", hint="name its files, or use train_from_dataset") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _blocks(path: Path, errors: str) -> Iterator[str]:
    rest = ""
    # newline="" keeps line ends as they are: a tokenizer that never saw \r\n would spell it in two tokens.
    with path.open(encoding="utf-8-sig", errors="strict" if errors == "error" else errors, newline="") as file:
        while block := file.read(_BLOCK_CHARACTERS):
            block = rest + block
            # Without a line end in sight the block is cut where it is: memory stays bounded, one word may be split.
            end = block.rfind("\n") + 1 or len(block)
            rest = block[end:]
            yield block[:end]
    if rest:
        yield rest
