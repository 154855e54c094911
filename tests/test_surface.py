"""The public surface is exactly what is listed here, explained by docstrings; asking for little imports little."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner

from tokenlake.cli import COMMANDS, app

#: Package -> the names that it promises. A change here is a change of the product.
SURFACE = {
    "tokenlake": """
    IngestReport
    Lake
    TerminalError
    TokenBatch
    TokenStore
    TokenlakeError
    TransientError
    open
    """,
    "tokenlake.datasets": """
    DATASETS
    DatasetReport
    fetch
    """,
    "tokenlake.feast": """
    LakeSource
    TokenSource
    TokenlakeComputeEngine
    TokenlakeComputeEngineConfig
    TokenlakeOfflineStore
    TokenlakeOfflineStoreConfig
    TokenlakeOnlineStore
    TokenlakeOnlineStoreConfig
    token_batch
    """,
    "tokenlake.torch": """
    Jagged
    SequenceBatch
    SequenceDataset
    SequenceLoader
    """,
    "tokenlake_kernels": """
    ArgumentError
    DeviceError
    DtypeError
    KernelError
    OffsetsError
    SamoyedsWeight
    ShapeError
    gated_norm
    grouped_gemm
    hstu_attention
    jagged_attention
    jagged_concat
    jagged_cross_attention
    jagged_dense_add
    jagged_dense_bmm
    jagged_dense_mul
    jagged_jagged_bmm
    jagged_prefix_attention
    jagged_softmax
    jagged_split
    jagged_time_differences
    jagged_to_padded
    padded_to_jagged
    sparse_moe_matmul
    """,
    "tokenlake_sql": """
    Definition
    Filling
    Parameter
    Query
    definitions
    filled
    parse
    queries
    """,
}
#: `tokenlake_models` promises modules, not names: what is in them is imported from there.
MODELS = {
    "activity",
    "alure",
    "alure_training",
    "attention",
    "averaging",
    "baselines",
    "calibration",
    "checkpoint",
    "config",
    "embeddings",
    "errors",
    "fitting",
    "hstu",
    "iat",
    "inputs",
    "instances",
    "interactions",
    "jagged",
    "metrics",
    "optimizers",
    "ranker",
    "ranker_config",
    "ranker_sequences",
    "ranker_training",
    "ranking",
    "semantic_ids",
    "sequences",
    "sit",
    "target_attention",
    "training",
}
#: Packages whose `__all__` is for the other rooms of the platform: `tokenlake` hands on what users need of it.
ROOMS = {
    "tokenlake.audit",
    "tokenlake.catalog",
    "tokenlake.config",
    "tokenlake.feast.offline",
    "tokenlake.feast.online",
    "tokenlake.features.aggregations",
    "tokenlake.formats",
}
#: Callable -> its parameters, as the README's and the docs' examples call it. More may follow, with defaults.
CONTRACT = {
    "tokenlake.open": "folder_or_yaml",
    "tokenlake.Lake.ingest": "source",
    "tokenlake.Lake.run": "day",
    "tokenlake.Lake.sql": "query",
    "tokenlake.Lake.encode": "events",
    "tokenlake.Lake.counts": "rows, at=None",
    "tokenlake.Lake.tokens": "version=None",
    "tokenlake.Lake.versions": "",
    "tokenlake.Lake.promote": "version",
    "tokenlake.Lake.rollback": "",
    "tokenlake.Lake.index": "name='users', day=None",
    "tokenlake.Lake.graph": "day=None",
    "tokenlake.Lake.candidates": "users, at, k=100",
    "tokenlake.TokenStore.create": "path, *, dim, dtype='float16', side=None, known_at=()",
    "tokenlake.TokenStore.open": "path",
    "tokenlake.TokenStore.write_day": "ds, users, timestamps, tokens, side=None, known_at=None",
    "tokenlake.TokenStore.append": "users, timestamps, tokens, side=None, known_at=None",
    "tokenlake.TokenStore.fetch": "users, *, before, length=256, available='realtime', out=None",
    "tokenlake.TokenStore.fetch_at": "users, timestamps, *, as_of=None",
    "tokenlake.TokenStore.refresh": "",
    "tokenlake.TokenStore.compact": "",
    "tokenlake.TokenStore.verify": "",
    "tokenlake.TokenBatch.torch": "device=None",
    "tokenlake.TokenBatch.padded": "length",
    "tokenlake_kernels.jagged_attention": "q, k, v, offsets, *, causal=False, window=None, scale=None, max_len=None",
    "tokenlake_kernels.jagged_cross_attention": "q, k, v, offsets, *, bias=None, scale=None, max_len=None",
    "tokenlake_kernels.hstu_attention": (
        "q, k, v, offsets, *, norm, scale=None, max_len=None, num_targets=None, local=None, tail=None, prefix=None, "
        "contextual=0, timestamps=None, position_bias=None, time_bias=None"
    ),
    "tokenlake_kernels.jagged_to_padded": "x, offsets, max_len, fill=0",
    "tokenlake_kernels.padded_to_jagged": "p, offsets, total=None",
}
#: Attributes of a batch.
BATCH = {"values", "offsets", "timestamps", "side", "known", "scales", "missing"}
#: What costs a tenth of a second and more to import.
HEAVY = {"airflow", "deltalake", "duckdb", "faiss", "feast", "numpy", "pandas", "pyarrow", "ray", "sqlalchemy", "torch"}


@pytest.mark.parametrize("package", SURFACE)
def test_all_is_the_surface(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == SURFACE[package].split()
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_no_package_is_forgotten() -> None:
    found = set()
    for name in ("tokenlake", "tokenlake_kernels", "tokenlake_models", "tokenlake_sql"):
        root = Path(str(importlib.import_module(name).__file__)).parent
        for file in root.rglob("__init__.py"):
            if re.search(r"^__all__ = ", file.read_text(), re.MULTILINE):
                found.add(".".join((name, *file.parent.relative_to(root).parts)))
    assert found == SURFACE.keys() | ROOMS


def test_nothing_public_is_unlisted() -> None:
    module = importlib.import_module("tokenlake_sql")
    public = {name for name, value in vars(module).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public - {"annotations"} == set(SURFACE["tokenlake_sql"].split())


@pytest.mark.parametrize("package", ["tokenlake", "tokenlake_kernels"])
def test_what_is_imported_late_hides_the_rest(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(dir(module)) == SURFACE[package].split()
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = module.nosuch


def test_models_are_these() -> None:
    import tokenlake_models

    found = {module.name for module in pkgutil.iter_modules(tokenlake_models.__path__) if module.name[0] != "_"}
    assert found == MODELS
    assert not [
        name for name, value in vars(tokenlake_models).items() if name[0] != "_" and not isinstance(value, ModuleType)
    ]


class Public(NamedTuple):
    """Something that users may call or look at, and the class that it is of."""

    name: str
    value: Any
    owner: type | None

    @property
    def function(self) -> FunctionType | None:
        """The Python function behind a function, method or property."""
        inner = self.value.fget if isinstance(self.value, property) else getattr(self.value, "__func__", self.value)
        return inner if inspect.isfunction(inner) else None

    @property
    def of_a_library(self) -> bool:
        """Whether it answers a library's call, so that the library's own pages tell its arguments."""
        method = self.name.rpartition(".")[2]
        return any(method in vars(base) for base in (self.owner.__mro__ if self.owner else ()) if not _ours(base))


def _ours(value: object) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in {name.partition(".")[0] for name in SURFACE} | {
        "tokenlake_models"
    }


def _members(name: str, value: object) -> Iterator[Public]:
    yield Public(name, value, None)
    if inspect.isclass(value) and _ours(value):
        for member, _ in inspect.getmembers_static(value):
            found = Public(f"{name}.{member}", inspect.getattr_static(value, member), value)
            if member[0] != "_" and found.function and _ours(found.function):
                yield found


def _promised() -> list[Public]:
    """What the packages promise by name, with the public methods of classes."""
    return [
        public
        for package in SURFACE
        for name in importlib.import_module(package).__all__
        for public in _members(f"{package}.{name}", getattr(importlib.import_module(package), name))
    ]


def _of_models() -> list[Public]:
    modules = [importlib.import_module(f"tokenlake_models.{name}") for name in sorted(MODELS)]
    return [
        public
        for module in modules
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module.__name__ and callable(value)
        for public in _members(f"{module.__name__}.{name}", value)
    ]


def _documented(public: Public, doc: str, parameters: list[str], *, returns: bool) -> str | None:
    """What a docstring lacks."""
    if missing := [name for name in parameters if not re.search(rf"^    \*{{0,2}}{name}: ", doc, re.MULTILINE)]:
        return f"{public.name}: no line under `Args:` for {missing}"
    function = public.function
    assert function is not None
    if (
        returns
        and parameters
        and function.__annotations__.get("return") not in ("None", None)
        and "Returns:" not in doc
    ):
        return f"{public.name}: no `Returns:`"
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }  # a function that makes the error is told by its own docstring
    if unsaid := sorted(
        name for name in raised if name[0].isupper() and not re.search(rf"^    .*\b{name}\b.*: ", doc, re.MULTILINE)
    ):
        return f"{public.name}: no line under `Raises:` for {unsaid}"
    return None


def _lacking(public: Public) -> str | None:
    if not callable(public.value) and not isinstance(public.value, (property, classmethod, staticmethod)):
        return None  # a constant, told by a comment
    doc = public.value.__doc__ or inspect.getdoc(public.value) or ""
    if inspect.isclass(public.value):  # of dataclasses, Python writes one that says only the signature
        return f"{public.name}: no docstring" if not doc or doc.startswith(f"{public.value.__name__}(") else None
    if not doc.strip():
        return f"{public.name}: no docstring"
    if public.function is None or isinstance(public.value, property) or public.of_a_library:
        return None
    parameters = [name for name in inspect.signature(public.function).parameters if name not in {"self", "cls"}]
    if not public.name.startswith("tokenlake_models"):
        return _documented(public, inspect.cleandoc(doc), parameters, returns=True)
    # In the models, jaxtyping's annotations tell the shapes and dtypes of what goes in and out.
    told = parameters if "Args:" in doc else []
    return _documented(public, inspect.cleandoc(doc), told, returns=False)


@pytest.mark.parametrize("publics", [_promised, _of_models])
def test_all_that_is_public_is_explained(publics: Callable[[], list[Public]]) -> None:
    assert [lack for public in publics() if (lack := _lacking(public))] == []


def test_what_is_not_explained_is_found() -> None:
    """The check above bites: without a docstring, an argument's line, `Returns:`, or what is raised."""

    def bare(x: int) -> None: ...

    def silent(x: int) -> int:
        """Told.

        Args:
            x: a number.
        """
        return x

    def raising(x: int) -> None:
        """Told.

        Args:
            x: a number.
        """
        raise ValueError(x)

    def half(x: int, y: int) -> None:
        """Told.

        Args:
            x: a number.
        """

    told = [_lacking(Public("f", f, None)) for f in (bare, silent, raising, half)]
    assert told == [
        "f: no docstring",
        "f: no `Returns:`",
        "f: no line under `Raises:` for ['ValueError']",
        "f: no line under `Args:` for ['y']",
    ]


@pytest.mark.parametrize("name", CONTRACT)
def test_signatures_are_those_of_the_contract(name: str) -> None:
    package, *path = name.split(".")
    value: Any = importlib.import_module(package)
    for part in path:
        value = getattr(value, part)
    given = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
    names: dict[str, Any] = {}
    exec(f"def promised({CONTRACT[name]}): ...", names)
    promised = inspect.signature(names["promised"]).parameters.values()
    assert _positional(given)[: len(_positional(promised))] == _positional(promised)
    assert {p.name: p.default for p in promised}.items() <= {p.name: p.default for p in given}.items()
    beyond = [p for p in given if p.name not in {p.name for p in promised}]
    assert all(p.default is not p.empty for p in beyond)


def _positional(parameters: Iterable[inspect.Parameter]) -> list[str]:
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def test_a_batch_has_its_attributes() -> None:
    from tokenlake import TokenBatch
    from tokenlake.tokens.schema import StoreSchema

    batch = TokenBatch.empty(StoreSchema.of(2, "float16", None, ()))
    assert all(hasattr(batch, name) for name in BATCH)


def test_errors_are_a_tree() -> None:
    from tokenlake import errors

    made = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    leaves = set(made) - {errors.TokenlakeError, errors.TerminalError, errors.TransientError}
    for error in leaves:
        assert issubclass(error, errors.TerminalError) != issubclass(error, errors.TransientError)
        assert error.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "code",
    [
        "import tokenlake",
        "import sys; from tokenlake.cli import main; sys.argv = ['tokenlake', '--help']; main()",
        "import sys; from tokenlake.cli import main; sys.argv = ['tokenlake', '--version']; main()",
    ],
)
def test_little_is_imported(code: str) -> None:
    """In a fresh interpreter: the tests themselves have imported everything."""
    tail = "import atexit, json, sys; atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)))); "
    done = subprocess.run([sys.executable, "-c", tail + code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "tokenlake" in imported
    assert not imported & HEAVY


def _commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += [(*path, name), *(_commands(command, *path, name) if isinstance(command, click.Group) else [])]
    return found


@pytest.mark.parametrize("path", _commands(app), ids=" ".join)
def test_every_command_helps(path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = CliRunner().invoke(app, [*path, flag])
        assert result.exit_code == 0, result.output
        assert result.output.startswith("Usage: ")
    assert len(result.output.splitlines()) > 4


def test_each_command_has_a_file_and_a_line() -> None:
    from tokenlake import commands

    files = {module.name for module in pkgutil.iter_modules(commands.__path__) if module.name[0] != "_"}
    assert files == COMMANDS.keys()
    listed = CliRunner().invoke(app, ["--help"]).output
    assert all(name in listed and line.rstrip(".") in listed for name, line in COMMANDS.items())
