"""CUDA's strictness about half precision, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = (torch.float16, torch.bfloat16)

# What torch computes in float32 and float64 only. The CPU's autocast hands it float32 all the same; CUDA's
# hands on what it is given, so that it raises.
REFUSED = frozenset({
    "quantile", "nanquantile", "cholesky", "cholesky_inverse", "cholesky_solve", "inverse", "pinverse", "det",
    "logdet", "slogdet", "qr", "svd", "geqrf", "lu", "lu_solve", "orgqr", "ormqr", "triangular_solve",
    "svd_lowrank", "pca_lowrank", "lobpcg", "histc", "linalg_cholesky", "linalg_cholesky_ex", "linalg_cond",
    "linalg_det", "linalg_eig", "linalg_eigh", "linalg_eigvals", "linalg_eigvalsh", "linalg_inv",
    "linalg_inv_ex", "linalg_householder_product", "linalg_ldl_factor", "linalg_ldl_solve", "linalg_lstsq",
    "linalg_lu", "linalg_lu_factor", "linalg_lu_factor_ex", "linalg_lu_solve", "linalg_matrix_rank",
    "linalg_pinv", "linalg_qr", "linalg_slogdet", "linalg_solve", "linalg_solve_ex",
    "linalg_solve_triangular", "linalg_svd", "linalg_svdvals", "linalg_tensorinv", "linalg_tensorsolve",
})  # fmt: skip


class CudaRules(TorchFunctionMode):
    """While entered, what CUDA refuses to compute in half precision raises here, too, and with torch's own
    error: ``quantile() input tensor must be either float or double dtype``.

    Sees what Python calls, as functions and as methods of tensors, before an autocast has cast anything.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in REFUSED and (halves := [t.dtype for t in _tensors((args, kwargs)) if t.dtype in HALF]):
            # Out of autocast's reach the CPU refuses it, too; but for this one.
            with torch.autocast("cpu", enabled=False):
                if name != "histc":
                    func(*args, **kwargs)
            raise RuntimeError(f"{name!r} not implemented on CUDA for {halves[0]}")
        return func(*args, **kwargs)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
