"""Which operators of a `.tflite` file its delegate took: LiteRT lists the delegate as one more operator, behind them.

    inside(D) = { o : o leads to an output of D, and no input of D lies between }

The delegate's own inputs and outputs are told, so what it computes is found by walking back from the one to the other.
"""

from collections.abc import Sequence
from typing import Any

from .placement import Placed

# The delegate of the Python wheels; others would have to be handed to the interpreter.
XNNPACK = "xnnpack"
_DELEGATE = "DELEGATE"


def placed(interpreter: Any) -> tuple[Placed, ...]:
    """The operators of the file's first graph, in its order, each with who runs it: XNNPACK, or LiteRT's own kernels.

    A node's name is that of its first output. LiteRT tells nothing of the graphs behind a file's other signatures.
    """
    listed = interpreter._get_ops_details()
    names = {int(detail["index"]): detail["name"] for detail in interpreter.get_tensor_details()}
    delegates = [op for op in listed if op["op_name"] == _DELEGATE]
    operators = [op for op in listed if op["op_name"] != _DELEGATE]
    taken = {index for delegate in delegates for index in _inside(delegate, operators)}
    return tuple(_node(op, names, XNNPACK if op["index"] in taken else "cpu") for op in operators)


def _node(op: Any, names: dict[int, str], unit: str) -> Placed:
    outputs = [int(tensor) for tensor in op["outputs"]]
    return Placed(names.get(outputs[0], "") if outputs else "", op["op_name"], unit, unit)


def _inside(delegate: Any, operators: Sequence[Any]) -> set[int]:
    """The indices of the operators between a delegate's inputs and its outputs."""
    makers = {int(tensor): op for op in operators for tensor in op["outputs"]}
    given = set(map(int, delegate["inputs"]))
    found: set[int] = set()
    todo = [int(tensor) for tensor in delegate["outputs"]]
    while todo:
        op = makers.get(todo.pop())
        if op is None or op["index"] in found:
            continue
        found.add(op["index"])
        todo += [int(tensor) for tensor in op["inputs"] if int(tensor) not in given]
    return found
