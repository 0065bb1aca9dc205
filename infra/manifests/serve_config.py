"""Ray Serve's config with misspelt keys refused: `ServeDeploySchema` takes them in silence."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema


def check_serve_config(config: Mapping[str, Any]) -> None:
    """Raises ValueError: a key that Serve does not know (with its path), or a value it refuses."""
    unknown = list(_unknown(ServeDeploySchema, config, ""))
    if unknown:
        raise ValueError(f"Serve knows no {', '.join(unknown)}")
    ServeDeploySchema.model_validate(config)


def _unknown(model: type[BaseModel], given: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in given.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{path}{key}"
            continue
        inner = _model_of(field.annotation)
        if inner is None:
            continue
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            place = f"{path}{key}[{index}]." if isinstance(value, list) else f"{path}{key}."
            if isinstance(item, Mapping):
                yield from _unknown(inner, item, place)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in `Optional[Model]`, `list[Model]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_of(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)
