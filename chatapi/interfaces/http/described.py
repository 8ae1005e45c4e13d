"""Models whose fields are described by the text below them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler


class DescribedModel(BaseModel):
    """A model; the text below a field describes it in the OpenAPI document.

    With Pydantic's use_attribute_docstrings every start would read the source of every class: here only the document
    does.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema with the descriptions; Pydantic calls it."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _descriptions(cls).items():
            field = properties.get(cls.model_fields[name].alias or name) if name in cls.model_fields else None
            if field is not None:
                field.setdefault("description", text)
        return schema


@cache
def _descriptions(kind: type[BaseModel]) -> dict[str, str]:
    """Field -> the text below it in the source, of the class and those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if issubclass(each, DescribedModel) and each is not DescribedModel:
            [defined] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            for field, text in pairwise(getattr(defined, "body", ())):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    found[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return found
