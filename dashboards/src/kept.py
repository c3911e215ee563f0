"""The names that boards ask for, as the rule by which a remote write keeps these and drops the rest.

python -m dashboards.src.kept [UID ...]      default: all boards
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import promql_parser

from dashboards.src.__main__ import BOARDS, texts

_VARIABLES = {r"\$__rate_interval|\$__range": "1m", r"\$objective": "2.0", r"\$(\w+)": r"\1"}
"""What stands for Grafana's variables while a query is read."""
_WIDTH = 110


def names(uids: Iterable[str] = ()) -> frozenset[str]:
    """Of these boards, or of all."""
    wanted = frozenset(uids) or frozenset(board.uid for board in BOARDS)
    boards = [json.loads(text) for file, text in texts().items() if file.removesuffix(".json") in wanted]
    return frozenset(name for board in boards for query in _queries(board) for name in _selected(_parsed(query)))


def rule(uids: Iterable[str] = ()) -> str:
    """The entry of `write_relabel_configs`, as YAML."""
    lines = ['- source_labels: [__name__]\n  action: keep\n  regex: "\\']
    for name in sorted(names(uids)):
        if len(lines) == 1 or len(lines[-1]) + len(name) > _WIDTH:
            lines.append("    ")
        lines[-1] += f"{name}|"
    lines[-1] = lines[-1].removesuffix("|")
    return "\\\n".join([lines[0].removesuffix("\\"), *lines[1:]]) + '"\n'


def _queries(board: dict[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (annotation["expr"] for annotation in board["annotations"]["list"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"].removeprefix("label_values(").rpartition(",")[0]


def _parsed(query: str) -> Any:
    for pattern, stand_in in _VARIABLES.items():
        query = re.sub(pattern, stand_in, query)
    return promql_parser.parse(query)


def _selected(node: Any) -> Iterator[str]:
    match node:
        case promql_parser.VectorSelector():
            yield node.name
        case promql_parser.MatrixSelector():
            yield node.vector_selector.name
        case promql_parser.BinaryExpr():
            yield from _selected(node.lhs)
            yield from _selected(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from _selected(argument)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from _selected(node.expr)
        case promql_parser.SubqueryExpr():
            yield from _selected(node.expr)


def main() -> None:
    known = [board.uid for board in BOARDS]
    parser = argparse.ArgumentParser(prog="python -m dashboards.src.kept", description=__doc__)
    parser.add_argument("uid", nargs="*", choices=[*known, []], default=[])
    sys.stdout.write(rule(parser.parse_args().uid))


if __name__ == "__main__":
    main()
