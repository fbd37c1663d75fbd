"""The rules of the house, checked on the sources themselves."""

from __future__ import annotations

import ast
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llm_trainer.common.environment import setup_environment

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "llm_trainer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
LAYERS = [
    ["cli"],
    ["workflows"],
    ["evaluation", "finetuning"],
    ["utils"],
    ["training", "generation"],
    ["monitoring", "corpus", "data", "models"],
    ["tokenizer"],
    ["config"],
    ["common"],
]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}"


def imports_of(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module


def type_checking_only(tree: ast.AST) -> set[ast.stmt]:
    """Imports below ``if TYPE_CHECKING:``, which do not happen."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in node.body
    }


def public_definitions(body: list[ast.stmt], *, methods: bool = False) -> Iterator[Definition]:
    """Public classes and functions, and the public methods of public classes; overridden ones are their base's."""
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        if methods and any(text.endswith((".setter", "overload", "override")) for text in decorators):
            continue
        if "overload" in decorators:
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body, methods=True)


def inherits_its_meaning(path: Path, node: Definition) -> bool:
    """A method that a framework names: torch's ``forward`` is told in its class."""
    return node.name in ("forward", "extra_repr") and isinstance(node, ast.FunctionDef)


def test_there_are_sources() -> None:
    assert len(SOURCES) > 100


def test_files_are_small() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path): count for path, count in lines.items() if count > 500} == {}
    scripts = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in (REPOSITORY / "scripts").glob("*.py")
    }
    assert {str(path): count for path, count in scripts.items() if count > 50} == {}


def test_no_exception_is_swallowed() -> None:
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            if node.type is None or (broad and all(isinstance(step, ast.Pass) for step in node.body)):
                found.append(name_of(path, node))
    assert found == []


def test_nothing_is_left_to_do() -> None:
    found = [str(path) for path in SOURCES for word in ("TODO", "FIXME", "XXX") if word in path.read_text("utf-8")]
    assert found == []


@pytest.mark.covers("R007")
def test_everything_public_is_documented() -> None:
    missing = [str(path) for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    for path, tree in TREES.items():
        for node in public_definitions(tree.body):
            if not ast.get_docstring(node) and not inherits_its_meaning(path, node):
                missing.append(f"{name_of(path, node)} {node.name}")
    assert missing == []


@pytest.mark.covers("R007")
@pytest.mark.parametrize("package", ["models", "training", "generation"])
def test_components_are_ours(package: str) -> None:
    found = [
        name_of(path, node)
        for path, tree in TREES.items()
        if (PACKAGE / package) in path.parents
        for node, module in imports_of(tree)
        if module.partition(".")[0] == "transformers"
    ]
    assert found == []


@pytest.mark.covers("R025")
def test_imports_point_down() -> None:
    height = {name: len(LAYERS) - index for index, layer in enumerate(LAYERS) for name in layer}
    found = []
    for path, tree in TREES.items():
        home = path.relative_to(PACKAGE).parts[0]
        skipped = type_checking_only(tree)
        for node, module in imports_of(tree):
            parts = module.split(".")
            if node in skipped or parts[0] != "llm_trainer" or len(parts) < 2 or parts[1] == home:
                continue
            # model.generate() is a convenience that people expect on the model; it is one lazy import.
            if (home, parts[1]) == ("models", "generation") and path.name == "base.py":
                continue
            if home in height and parts[1] in height and height[parts[1]] >= height[home]:
                found.append(f"{name_of(path, node)} imports {module}")
    assert found == []


@pytest.mark.covers("R304")
def test_nothing_is_unpickled() -> None:
    """Neither by pickle nor through torch.load, whose files hold pickles."""
    found = []
    for path, tree in TREES.items():
        found += [
            name_of(path, node) for node, module in imports_of(tree) if module in ("pickle", "dill", "cloudpickle")
        ]
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found += [name_of(path, call) for call in calls if ast.unparse(call.func) in ("torch.load", "yaml.unsafe_load")]
    assert found == []


def test_text_is_read_as_utf8() -> None:
    """Without the name of the encoding, text is read in the code page of Windows."""
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            mode = next((word.value for word in node.args if isinstance(word, ast.Constant)), "r")
            text = node.func.attr in ("read_text", "write_text") or (
                node.func.attr == "open" and isinstance(mode, str) and set(mode) <= set("rwax+t")
            )
            # TokenCache.open, os.open and the members of an archive are other things than a file's open.
            owner = ast.unparse(node.func.value)
            text = text and owner not in ("os", "archive") and not owner[0].isupper()
            named = "encoding" in {keyword.arg for keyword in node.keywords}
            if text and not named and not (node.func.attr == "read_text" and node.args):
                found.append(f"{name_of(path, node)} {ast.unparse(node)[:80]}")
    assert found == []


@pytest.mark.covers("R027")
def test_nothing_needs_unix() -> None:
    """No import of a module that Windows lacks, and no fork."""
    missing = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "curses"}
    calls = {"os.fork", "os.kill", "os.getuid", "os.geteuid", "signal.SIGKILL", "signal.SIGHUP", "signal.alarm"}
    found = []
    for path, tree in TREES.items():
        found += [f"{name_of(path, node)} {module}" for node, module in imports_of(tree) if module in missing]
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        found += [f"{name_of(path, node)} {ast.unparse(node)}" for node in attributes if ast.unparse(node) in calls]
    assert found == []


@pytest.mark.covers("R002")
def test_python_floor() -> None:
    """The sources are valid for the oldest Python that pyproject.toml promises."""
    assert 'requires-python = ">=3.10"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    oldest = shutil.which("python3.10")
    if oldest is None or subprocess.run([oldest, "--version"], capture_output=True).returncode != 0:
        return
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    program = "import ast, sys; [compile(open(p, encoding='utf-8').read(), p, 'exec') for p in sys.argv[1:]]"
    done = subprocess.run([oldest, "-c", program, *map(str, SOURCES)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_no_name_is_too_new_for_the_floor() -> None:
    """What came with 3.11 and 3.12 and is easily used by mistake."""
    new = (
        "tomllib",
        "contextlib.chdir",
        "datetime.UTC",
        "ExceptionGroup",
        "itertools.batched",
        "from typing import Self",
    )
    found = [f"{path}: {name}" for path in SOURCES for name in new if name in path.read_text(encoding="utf-8")]
    assert found == []


@pytest.mark.covers("R019")
def test_licence() -> None:
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License") and "WITHOUT WARRANTY OF ANY KIND" in text


@pytest.mark.covers("R020")
def test_contributing_guide() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").lower()
    for word in ("fork", "branch", "commit", "push", "pull request", "make test"):
        assert word in text


@pytest.mark.covers("R021")
def test_acknowledgements() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name in (
        "Hugging Face",
        "PyTorch",
        "nanoGPT",
        "MobileLLM",
        "DeepSeek-V3",
        "Llama",
        "Cosmopedia",
        "FineWeb-Edu",
    ):
        assert name.lower() in text.lower(), name


def test_readme_names_only_files_that_exist() -> None:
    import re

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_requirement_rows_are_unique() -> None:
    with (REPOSITORY / "tests" / "requirements.csv").open(encoding="utf-8") as file:
        rows = [row["row"] for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) > 400


@pytest.mark.covers("R004")
def test_requirements_file_is_what_the_package_asks_for() -> None:
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for name in (
        "torch",
        "transformers",
        "datasets",
        "accelerate",
        "wandb",
        "tokenizers",
        "lz4",
        "psutil",
        "matplotlib",
    ):
        assert any(line.startswith(f"{name}>=") for line in lines), name
    pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = pyproject.partition("dependencies = [")[2].partition("]")[0]
    asked = [line.strip(' ",') for line in dependencies.splitlines() if line.strip()]
    assert [line for line in asked if line not in lines] == []


def test_configurations_are_plain_yaml() -> None:
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


@pytest.mark.covers("R028")
class TestEnvironment:
    def test_on_windows_triton_is_set_up(self, tmp_path: Path) -> None:
        environ: dict[str, str] = {}
        names = setup_environment("win32", environ, tmp_path)
        assert names == ["PYTORCH_CUDA_ALLOC_CONF", "TRITON_CACHE_DIR", "TRITON_INTERPRET"]
        assert environ["TRITON_INTERPRET"] == "1"
        assert environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:128"
        assert Path(environ["TRITON_CACHE_DIR"]).is_dir()

    def test_elsewhere_only_the_allocator(self, tmp_path: Path) -> None:
        environ: dict[str, str] = {}
        assert setup_environment("linux", environ, tmp_path) == ["PYTORCH_CUDA_ALLOC_CONF"]
        assert list(tmp_path.iterdir()) == []

    def test_a_persons_own_settings_win(self, tmp_path: Path) -> None:
        environ = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": "mine", "PYTORCH_CUDA_ALLOC_CONF": "backend:native"}
        before = dict(environ)
        assert setup_environment("win32", environ, tmp_path) == []
        assert environ == before and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.covers("R001")
def test_installs_as_one_package(tmp_path: Path) -> None:
    """From a copy of the sources into an empty folder; the command and the data files come along."""
    setuptools = pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    shutil.copytree(PACKAGE.parent, copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", tmp_path / "site", copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + setuptools.__version__
    program = "import llm_trainer, llm_trainer.cli.app; print(llm_trainer.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert str(tmp_path / "site") in shown.stdout
