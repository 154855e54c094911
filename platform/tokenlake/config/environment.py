"""Environment variables that override single settings of `tokenlake.yaml`, such as `TOKENLAKE_TOKENS__SERVING`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tokenlake.config.model import PREFIX, Config
from tokenlake.errors import ConfigError


class OverriddenConfig(Config, BaseSettings):
    """A `Config` whose settings the environment overrides."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources in order of precedence: environment variables override the file."""
        return env_settings, init_settings


def overridden(path: Path, values: dict[str, Any]) -> Config:
    """The settings of a file, overridden by the environment.

    Args:
        path: the file, for messages.
        values: its content.

    Raises:
        ConfigError: a variable cannot be read.
        pydantic.ValidationError: a setting is not valid.
    """
    try:
        return OverriddenConfig(**values)
    except SettingsError as error:
        raise ConfigError(f"{path}: a {PREFIX} variable of the environment cannot be read: {error}") from error
