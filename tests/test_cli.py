"""How the command line ends: an error made for people is one red line, a fault of ours a traceback."""

from __future__ import annotations

import re

import pytest

from tokenlake import cli
from tokenlake.errors import ConfigError, TokenlakeError, TrainingError
from tokenlake.pipeline.job import translated_errors
from tokenlake_kernels.errors import KernelError, ShapeError
from tokenlake_models.errors import InstancesError, ModelError


def failing(error: BaseException) -> object:
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("no such key"), "ConfigError: no such key"),
        (InstancesError("feature 'x' is missing"), "InstancesError: feature 'x' is missing"),
        (ShapeError("the heads are 257 wide"), "ShapeError: the heads are 257 wide"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "MissingExtraError: faiss is not installed"),
        (PermissionError(13, "Permission denied", "/lake/tokens"), "StorageError: /lake/tokens: Permission denied"),
    ],
)
def test_errors_made_for_people(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", failing(error))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("error", [ValueError("x"), TypeError("x"), ModuleNotFoundError("x", name="nosuch")])
def test_faults_of_ours_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", failing(error))
    with pytest.raises(type(error)):
        cli.main()


@pytest.mark.parametrize("error", [InstancesError("rows 9, but the model has 4"), ShapeError("q has shape (2, 16)")])
def test_a_job_says_in_our_words_what_models_and_kernels_refuse(error: ModelError | KernelError) -> None:
    """Terminal: a scheduler that tried again would meet the same."""
    with pytest.raises(TrainingError, match=re.escape(str(error))) as caught, translated_errors():
        raise error
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, TokenlakeError)
