"""The public surface is exactly what is listed here, and asking for little imports little."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from types import ModuleType

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
    Parameter
    Query
    install
    queries
    """,
}
#: `tokenlake_models` promises modules, not names: what is in them is imported from there.
MODELS = {
    "activity",
    "alure",
    "alure_training",
    "attention",
    "baselines",
    "checkpoint",
    "config",
    "embeddings",
    "errors",
    "hstu",
    "hstu_training",
    "iat",
    "inputs",
    "instances",
    "jagged",
    "metrics",
    "optimizers",
    "semantic_ids",
    "sequences",
    "sit",
    "training",
}
#: What costs a tenth of a second and more to import.
HEAVY = {"airflow", "deltalake", "duckdb", "faiss", "feast", "numpy", "pandas", "pyarrow", "ray", "sqlalchemy", "torch"}


@pytest.mark.parametrize("package", SURFACE)
def test_all_is_the_surface(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == SURFACE[package].split()
    for name in module.__all__:
        assert getattr(module, name) is not None


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
