"""Which fields the kinds of the Prometheus Operator and of KEDA have, for the tests.

cloudcoil's models of both, packages on PyPI, are generated, and by their versions from the Prometheus Operator 0.93.1
and KEDA 2.20.2; they are not the operators' own schemas. They want a newer Python and a client of Kubernetes:
`scripts/kubetools` unpacks their source, and here it is read, never imported. What a model says becomes a JSON schema:
names, types, what must be there, choices, bounds and patterns. A field that it does not have is a mistake. What it does
not say is not checked: rules in CEL, and all that is in `metadata`.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache

from jsonschema import Draft202012Validator

from tests.kube import TOOLS, Object

MODELS = {
    "monitoring.coreos.com/v1": TOOLS / "prometheus_operator.py",
    "keda.sh/v1alpha1": TOOLS / "keda.py",
}
_PLAIN: dict[str, Object] = {
    "Any": {},
    "AwareDatetime": {"type": "string"},
    "ObjectMeta": {"type": "object"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
}
# Each of these keywords looks only at values of its own type.
_BOUNDS = {
    "ge": ("minimum",),
    "le": ("maximum",),
    "max_length": ("maxLength", "maxItems"),
    "min_length": ("minLength", "minItems"),
    "pattern": ("pattern",),
}


def mistakes(made: Object) -> list[str]:
    """What is wrong in an object of an API in MODELS."""
    errors = Draft202012Validator(_schema(made["apiVersion"], made["kind"])).iter_errors(made)
    return [f"{error.json_path}: {error.message}" for error in errors]


@cache
def _schema(api: str, kind: str) -> Object:
    classes, known, wanted = _classes(api), {}, [kind]
    while wanted:
        name = wanted.pop()
        if name not in known:
            known[name] = _of_class(classes[name])
            wanted += re.findall(r'"#/\$defs/(\w+)"', json.dumps(known[name]))
    return {"$ref": f"#/$defs/{kind}", "$defs": known}


@cache
def _classes(api: str) -> dict[str, str]:
    """The source of each class: to parse them all takes seconds, and a kind needs few."""
    sources = re.split(r"^class (?=\w)", MODELS[api].read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {re.split(r"\W", source, maxsplit=1)[0]: f"class {source}" for source in sources}


def _of_class(source: str) -> Object:
    properties: Object = {}
    required = []
    (model,) = ast.parse(source).body
    assert isinstance(model, ast.ClassDef)
    for statement in model.body:
        match statement:
            case ast.AnnAssign(annotation=ast.Subscript(value=ast.Name(id="ClassVar"))):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=default):
                name = _field(annotation).get("alias", name)
                properties[name] = _of_type(annotation)
                if default is None or name in ("apiVersion", "kind"):
                    required.append(name)
            case ast.Expr(value=ast.Constant()) | ast.FunctionDef() | ast.ClassDef():  # texts, and the builders
                pass
            case _:
                raise ValueError(ast.unparse(statement))
    if [ast.unparse(base).partition("[")[0] for base in model.bases] == ["RootModel"]:
        root: Object = properties["root"]
        return root
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _of_type(annotation: ast.expr) -> Object:
    match annotation:
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            return _PLAIN.get(name, {"$ref": f"#/$defs/{name}"})
        # None is a field that is left out: Kubernetes takes no null for one.
        case ast.BinOp(left=one, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _of_type(one)
        case ast.BinOp(left=one, op=ast.BitOr(), right=other):
            return {"anyOf": [_of_type(one), _of_type(other)]}
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return {"type": "array", "items": _of_type(item)}
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, value])):
            return {"type": "object", "additionalProperties": _of_type(value)}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = ast.literal_eval(choices)
            return {"enum": list(values) if isinstance(values, tuple) else [values]}
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, _])):
            bounds = {name: value for name, value in _field(annotation).items() if name != "alias"}
            return _of_type(inner) | {keyword: value for name, value in bounds.items() for keyword in _BOUNDS[name]}
    raise ValueError(ast.unparse(annotation))


def _field(annotation: ast.expr) -> Object:
    """What `Annotated[..., Field(...)]` says of a field."""
    match annotation:
        case ast.Subscript(slice=ast.Tuple(elts=[_, ast.Call(func=ast.Name(id="Field"), args=[], keywords=said)])):
            return {str(each.arg): ast.literal_eval(each.value) for each in said}
    return {}
