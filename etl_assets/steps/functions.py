"""A step that is a function of the project: its parameters name what it takes, what it returns goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin, get_type_hints

import narwhals as nw

from etl_assets.engine.code_version import code_version
from etl_assets.engine.location import location
from etl_assets.later import Later
from etl_assets.steps.contract import Made, Output, Step, StepError, StepResult
from etl_assets.steps.work import Work

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
else:
    pd = Later("pandas")
    pa = Later("pyarrow")

_PLAIN: Mapping[Any, Output] = {
    str: "text",
    bytes: "bytes",
    dict: "json",
    list: "json",
    type(None): "",
}


class _Pandas:
    """What `pd.DataFrame` stands for in a file that imports pandas for type checkers alone, and in its functions."""


class _Arrow:
    """The same of `pa.Table`."""


_LATER = {
    **dict.fromkeys(("pd", "pandas"), SimpleNamespace(DataFrame=_Pandas)),
    **dict.fromkeys(("pa", "pyarrow"), SimpleNamespace(Table=_Arrow)),
}
_CALLED = {_Pandas: ("pandas", "DataFrame"), _Arrow: ("pyarrow", "Table")}


def _is(hint: Any, frame: type[object]) -> bool:
    """Whether an annotation means a kind of frame. Its library need not be there for that: most commands make no frame."""
    package = getattr(hint, "__module__", "").partition(".")[0]
    return hint is frame or (package, getattr(hint, "__name__", "")) == _CALLED[frame]


@dataclass(frozen=True)
class FunctionStep(Step):
    """A function. Each of its parameters names a step before it in the group, whose result it gets, or a parameter of the
    group, whose value it gets. Frames come as they are annotated: `pandas.DataFrame` (Arrow types), `pyarrow.Table`."""

    function: Callable[..., Any] = field(default=lambda: None, kw_only=True)
    also: frozenset[str] = field(default=frozenset(), kw_only=True)
    """More kinds, for the icons of the interface."""
    named: Sequence[str] = field(default=(), kw_only=True)
    """The settings that it needs."""

    kinds: ClassVar[frozenset[str]] = frozenset({"python"})
    does_without: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", location(self.function))
        super().__post_init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def check(self) -> None:
        _ = self.gives
        if isinstance(self.named, str):
            raise ValueError(f"{self.name}: settings names several: write settings=[…]")

    @property
    def settings(self) -> Sequence[str]:
        return self.named

    @cached_property
    def gives(self) -> Output:
        hint = self._hints.get("return", inspect.Parameter.empty)
        if get_origin(hint) is StepResult:
            hint = get_args(hint)[0]
        hint = get_origin(hint) or hint
        if hint in _PLAIN:
            return _PLAIN[hint]
        if not (_is(hint, _Pandas) or _is(hint, _Arrow)):
            raise ValueError(
                f"{self.name}: it must say what it returns: -> pd.DataFrame, pa.Table, str, bytes, dict, list or None, or "
                "StepResult[…] of one of these"
            )
        return "frame"

    @cached_property
    def _hints(self) -> dict[str, Any]:
        known = getattr(self.function, "__globals__", {})
        later = {alias: frames for alias, frames in _LATER.items() if alias not in known}
        return get_type_hints(self.function, localns=later)

    @cached_property
    def arguments(self) -> Sequence[str]:
        """What its parameters name."""
        return list(inspect.signature(self.function).parameters)

    @property
    def code_version(self) -> str:
        return code_version(self.function)

    def make(self, work: Work) -> Made:
        made = self.function(**{name: self._argument(name, work) for name in self.arguments})
        result = made if isinstance(made, StepResult) else StepResult(made)
        if not self.gives:
            return Made(result.metadata)
        if self.gives != "frame":
            kept = work.keeping.put(self.name, self.gives, self._checked(result.value))
            return Made({"path": kept.path, "bytes": kept.bytes, **result.metadata}, kept.version)
        frame = _table(result.value)
        kept = work.keeping.put_frame(self.name, [frame])
        figures = {"path": kept.path, "bytes": kept.bytes, **result.metadata}
        return Made(figures, kept.version, frame.slice(0, 10), kept.rows)

    def _argument(self, name: str, work: Work) -> Any:
        if name in work.parameters:
            return work.values[name]
        if name in work.unmade:
            return None  # it runs whatever failed
        if work.kinds[name] != "frame":
            return work.keeping.get(name, work.kinds[name])
        frame = work.keeping.frame(name)
        hint = self._hints.get(name)
        wanted = get_args(hint) or (hint,)  # of one with `always`, `pd.DataFrame | None`
        if any(_is(hint, _Pandas) for hint in wanted):
            return frame.to_pandas(types_mapper=pd.ArrowDtype)
        return frame if any(_is(hint, _Arrow) for hint in wanted) else nw.from_native(frame)

    def _checked(self, value: Any) -> Any:
        wanted = {"text": str, "bytes": bytes, "json": (dict, list)}[self.gives]
        if not isinstance(value, wanted):  # type: ignore[arg-type]
            raise StepError(f"it returns {type(value).__name__}, and says that it returns {self.gives}")
        return value


def _table(value: Any) -> pa.Table:
    native = nw.to_native(value, pass_through=True)
    if isinstance(native, pa.Table):
        return native
    if isinstance(native, pd.DataFrame):
        if named := [str(name) for name in native.index.names if name is not None]:
            raise StepError(
                f"its frame has an index ({', '.join(named)}), which would be lost: make a column of it by reset_index(), or drop it "
                "by reset_index(drop=True)"
            )
        try:
            return pa.Table.from_pandas(native, preserve_index=False).replace_schema_metadata(None)
        except (pa.ArrowException, TypeError):
            raise StepError("a column of its frame has values of several types: give it one") from None
    raise StepError(f"it returns {type(native).__name__}, and says that it returns a frame")


def step(
    *,
    name: str = "",
    description: str = "",
    kinds: Sequence[str] = (),
    after: Sequence[str] = (),
    deps: Sequence[str] = (),
    always: bool = False,
    settings: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], FunctionStep]:
    """Declare that the function below is a step, called as the function and described by its docstring unless that is said
    here. `settings`: the environment variables that it reads; before any step of a run, those that are missing are told. Raises `ValueError` for one that does not say what it returns."""

    def declared(function: Callable[..., Any]) -> FunctionStep:
        said = description or " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
        return FunctionStep(
            name or function.__name__,
            said,
            function=function,
            also=frozenset(kinds),
            after=after,
            deps=deps,
            always=always,
            named=settings,
        )

    return declared
