"""Schemas: how a config is checked against a dataclass, and what its fields may say."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from visionlora.common.errors import UserError, did_you_mean

T = TypeVar("T")


def checked(schema: type[T], config: DictConfig, prefix: str = "") -> T:
    """``config`` as an instance of ``schema``; in messages, its keys are named with ``prefix``.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), config)
        for key in OmegaConf.missing_keys(config):  # what a file asks for (???) is not answered by the schema's default
            OmegaConf.update(merged, key, MISSING)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        key = f"{prefix}{error.full_key}"
        raise UserError(f"{key} is not set; give it on the command line as {key}=….") from None
    except (ConfigKeyError, ConfigAttributeError) as error:
        where, _, key = (error.full_key or "").rpartition(".")
        section = get_type_hints(schema).get(where, schema) if where else schema
        known = [entry.name for entry in fields(section)] if is_dataclass(section) else []
        raise UserError(f"unknown key {prefix}{error.full_key}.{did_you_mean(key, known)}") from None
    except (ValidationError, OmegaConfBaseException) as error:
        key = (error.full_key or "").partition("[")[0]
        wanted = _WANTED.get(str(_type_of(schema, key)).removesuffix(" | None"))
        value = OmegaConf.select(config, key) if key else None
        if wanted is None or OmegaConf.is_dict(value):
            raise UserError(f"{prefix}{key or 'config'}: {str(error).splitlines()[0].rstrip('.')}.") from None
        null = ", or null" if str(_type_of(schema, key)).endswith("None") else ""
        python = {True: "true", False: "false", None: "null"}  # as it is typed
        shown = python[value] if value is None or isinstance(value, bool) else value
        hint = ", which is written null" if value == "None" and null else ""
        raise UserError(f"{prefix}{key}={shown} must be {wanted}{null}{hint}.") from None


_WANTED = {
    "<class 'int'>": "a whole number",
    "int": "a whole number",
    "<class 'float'>": "a number",
    "float": "a number",
    "<class 'bool'>": "true or false",
    "bool": "true or false",
    "list[float]": "a list of numbers, as in [0.5,1.0]",
}
"""Types of the schemas in words."""


def _type_of(schema: Any, key: str) -> Any:
    for name in key.split("."):
        schema = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return schema


def listed(value: Any) -> list[str]:
    """One value or a list of them as a list of words."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def off(value: str) -> str:
    """A word that may be ``off``, which YAML reads as false where it is in a file without quotes."""
    return "off" if value in ("False", "false") else value


def one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ``UserError`` unless ``value`` is among ``known``."""
    if value not in known:
        raise UserError(f"{key}={value} is unknown; it is one of {', '.join(known)}.{did_you_mean(str(value), known)}")


def at_least(key: str, value: float, least: float) -> None:
    """Raise ``UserError`` for a ``value`` below ``least``."""
    if not value >= least:
        raise UserError(f"{key}={value} must be at least {least}.")


def at_most(key: str, value: float, most: float) -> None:
    """Raise ``UserError`` for a ``value`` above ``most``."""
    if not value <= most:
        raise UserError(f"{key}={value} must be at most {most}.")


def fraction(key: str, value: float, one: bool = False) -> None:
    """Raise ``UserError`` unless ``value`` is in 0…1 (1 itself only if ``one``)."""
    if not (0 <= value < 1 or (one and value == 1)):
        raise UserError(f"{key}={value} must be between 0 and 1.")
