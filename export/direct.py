"""Spare a program the decomposition that it does not need.

torch's ONNX exporter first traces a program anew, twice, to take operators apart that it cannot write. A graph of
nothing but operators that it writes as they stand comes out of that as it went in, and that is half of the time.
"""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

# Each is pure, and torch's exporter has a translation of its own for it. What is not listed is decomposed.
_DIRECT = {
    aten.abs.default, aten.add.Tensor, aten.bmm.default, aten.cat.default, aten.clamp_min.default, aten.clone.default,
    aten.contiguous.default, aten.conv1d.default, aten.conv2d.default, aten.div.Tensor, aten.embedding.default,
    aten.exp.default, aten.expand.default, aten.expand_as.default, aten.flatten.using_ints, aten.gather.default,
    aten.gelu.default, aten.layer_norm.default, aten.linalg_vector_norm.default, aten.linear.default,
    aten.matmul.default, aten.mean.dim, aten.mul.Tensor, aten.permute.default, aten.relu.default, aten.reshape.default,
    aten.rsqrt.default, aten.select.int, aten.sigmoid.default, aten.slice.Tensor, aten.softmax.int, aten.sqrt.default,
    aten.squeeze.dim, aten.sub.Tensor, aten.sum.dim_IntList, aten.sym_size.int, aten.tanh.default, aten.transpose.int,
    aten.unsqueeze.default, aten.view.default,
    aten._assert_tensor_metadata.default,  # the exporter drops it
}  # fmt: skip


def spare(program: Any) -> None:
    """Let `program.run_decompositions` return the program itself where nothing in it has to be taken apart."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    regions = any(isinstance(part, fx.GraphModule) for part in program.graph_module.children())
    if regions or not all(_is_direct(node) for node in calls):
        return
    for node in calls:
        if node.target is aten.rsub.Scalar:
            node.target, node.args = aten.sub.Tensor, node.args[::-1]
        elif node.target is aten.to.dtype:
            node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
    program.graph_module.recompile()
    program.run_decompositions = lambda *_: program


def _is_direct(node: fx.Node) -> bool:
    if node.target is aten.dropout.default:
        return node.args[2] is False
    if node.target in (aten.rsub.Scalar, aten.to.dtype):  # no alpha, no copy, no memory format
        return len(node.args) == 2 and not node.kwargs
    return node.target in _DIRECT or getattr(node.target, "namespace", "") == "edgepress"
