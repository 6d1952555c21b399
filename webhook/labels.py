"""LabelSelectors, as Kubernetes defines them.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LabelSelector:
    """A selector, compiled; the empty one selects everything.

    Raises ValueError for an expression whose values do not fit its operator.
    """

    __slots__ = ("_expressions", "_labels")

    def __init__(self, selector: Mapping[str, Any]) -> None:
        self._labels: dict[str, str] = dict(selector.get("matchLabels") or {})
        self._expressions: list[tuple[str, str, frozenset[str]]] = []
        for expression in selector.get("matchExpressions") or ():
            operator, values = expression["operator"], frozenset(expression.get("values") or ())
            if (operator in ("In", "NotIn")) != bool(values):
                need = "needs values" if not values else "takes no values"
                raise ValueError(f"operator {operator} of key {expression['key']!r} {need}")
            self._expressions.append((expression["key"], operator, values))

    def matches(self, labels: Mapping[str, Any]) -> bool:
        """Whether an object with these labels is selected."""
        if any(labels.get(key) != value for key, value in self._labels.items()):
            return False
        return all(_holds(labels, *expression) for expression in self._expressions)


def _holds(labels: Mapping[str, Any], key: str, operator: str, values: frozenset[str]) -> bool:
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
