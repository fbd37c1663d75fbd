"""Running git on repositories that nobody vouches for, and copying one from the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.common.hashing import hash_bytes
from llm_trainer.corpus.sources.addresses import check_address as public_addresses

_NEUTRAL = (
    # What a repository's own configuration could make git run.
    "core.hooksPath=" + os.devnull,
    "core.fsmonitor=false",
    "core.attributesFile=" + os.devnull,
    # Data is read on behalf of its owner's reader, who is seldom the owner of the folder.
    "safe.directory=*",
)
_READ_ONLY = ("protocol.allow=never",)  # a partial clone would fetch what is missing, by a command of its choice
_CLONE_SECONDS = 3600


def git_environment(path: Path, protocols: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment for git: no configuration of the machine or the person, no questions, no wandering upwards.

    Args:
        path: the repository.
        protocols: what git may use to reach other repositories; nothing, for reading.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        # Outranks protocol.*.allow of the repository's own configuration, which outranks a general protocol.allow: a
        # "partial clone" from ext::COMMAND would have git run COMMAND to fetch an object that is missing.
        "GIT_ALLOW_PROTOCOL": ":".join(protocols) or "none",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_CEILING_DIRECTORIES": str(path.absolute().parent),
        "LC_ALL": "C",
    }


def git_command(path: Path, *arguments: str) -> list[str]:
    """A command line that only reads, in the repository at ``path``."""
    settings = [part for setting in (*_NEUTRAL, *_READ_ONLY) for part in ("-c", setting)]
    return [_git(), "--no-pager", *settings, "-C", str(path.absolute()), *arguments]


def run_git(path: Path, *arguments: str) -> bytes | str:
    """What a reading command prints; git's complaint as text if it fails."""
    if any(argument.startswith("-") and "=" in argument for argument in arguments):
        raise ValueError("options with values are not passed on")
    done = subprocess.run(git_command(path, *arguments), capture_output=True, env=git_environment(path), check=False)
    if done.returncode:
        return done.stderr.decode("utf-8", "replace").strip() or f"git ended with {done.returncode}"
    return done.stdout


def clone(
    url: str,
    cache: Path,
    *,
    check_address: Callable[[str], list[str]] = public_addresses,
    allow_http: bool = False,
    timeout: int = _CLONE_SECONDS,
) -> Path:
    """Copy the newest commit of a repository into a cache folder, once.

    Args:
        url: ``https://host/owner/name``.
        cache: folder of copies; the copy's name is made of the repository's and a hash of the URL.
        check_address: called with the URL; gives the addresses of its host, or raises if one is on a private network.
        allow_http: whether an unencrypted ``http://`` URL will do.
        timeout: seconds after which a copy is given up.

    Returns:
        The folder of a bare repository. An existing copy is returned as it is, so that a rerun reads the same bytes.

    Raises:
        DataError: the URL is not of that form, its host is refused, or git cannot copy it.
    """
    parts = urlsplit(url)
    schemes = ("https", "http") if allow_http else ("https",)
    if (
        url.startswith("-")
        or "::" in url
        or parts.scheme not in schemes
        or not parts.hostname
        or parts.hostname[0] == "-"
    ):
        raise DataError(
            f"{url!r} is not an address that repositories are copied from",
            hint="use https://HOST/OWNER/NAME, or clone it yourself and give the folder",
        )
    if parts.username or parts.password:
        raise DataError("the URL of a repository must not hold a name or password", hint="clone it yourself")
    name = re.sub(r"[^\w.-]", "_", parts.path.rstrip("/").rpartition("/")[2].removesuffix(".git")) or "repository"
    target = cache / f"{name}-{hash_bytes(url.encode('utf-8'))[:12]}.git"
    if target.is_dir():
        return target
    addresses = check_address(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # git looks the host up again; it is told the address that was checked.
    pins = [f"http.curloptResolve={parts.hostname}:{port}:{','.join(addresses)}"] if addresses else []
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache))
    try:
        _clone_into(url, temporary / "copy", schemes, pins, timeout)
        try:
            (temporary / "copy").rename(target)
        except OSError:
            if not target.is_dir():  # another process was faster; its copy is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _clone_into(url: str, folder: Path, schemes: tuple[str, ...], pins: list[str], timeout: int) -> None:
    allowed = [f"protocol.{scheme}.allow=always" for scheme in schemes]
    # A redirect could lead from the checked host to another one.
    settings = [*_NEUTRAL, *_READ_ONLY, *allowed, *pins, "http.followRedirects=false", "transfer.fsckObjects=true"]
    options = [part for setting in settings for part in ("-c", setting)]
    command = [_git(), *options, "clone", "--quiet", "--bare", "--depth=1", "--single-branch", "--no-tags"]
    try:
        done = subprocess.run(
            [*command, "--", url, str(folder)],
            capture_output=True,
            env=git_environment(folder, schemes),
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"copying {url} took more than {timeout} seconds") from None
    if done.returncode:
        raise DataError(f"git cannot copy {url}: {done.stderr.decode('utf-8', 'replace').strip()}")


def _git() -> str:
    program = shutil.which("git")
    if program is None:
        raise UserError("reading repositories needs the program git, which is not on this machine", hint="install git")
    return program
