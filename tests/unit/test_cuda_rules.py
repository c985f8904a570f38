"""The tests' stand-in for CUDA's strictness about half precision."""

import contextlib

import pytest
import torch

from tests.cuda_rules import HALF, REFUSED, CudaRules

A = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
A = A @ A.T + torch.eye(4)

CALLS = {
    "quantile": lambda a: torch.quantile(a, 0.5),
    "quantile, a method": lambda a: a.quantile(0.5, dim=0),
    "quantile, q by name": lambda a: torch.quantile(input=a, q=torch.tensor([0.1, 0.9]).to(a.dtype)),
    "nanquantile": lambda a: a.nanquantile(0.5),
    "cholesky": torch.linalg.cholesky,
    "cholesky, a method": lambda a: a.cholesky(),
    "cholesky_solve": lambda a: torch.cholesky_solve(a, a),
    "inverse": lambda a: a.inverse(),
    "inv": torch.linalg.inv,
    "pinv": torch.linalg.pinv,
    "solve": lambda a: torch.linalg.solve(a, a),
    "lstsq": lambda a: torch.linalg.lstsq(a, a).solution,
    "eigh": lambda a: torch.linalg.eigh(a).eigenvalues,
    "svd": lambda a: torch.linalg.svd(a).S,
    "svdvals": torch.linalg.svdvals,
    "qr": lambda a: torch.linalg.qr(a).R,
    "det": lambda a: a.det(),
    "logdet": lambda a: a.logdet(),
    "matrix_rank": torch.linalg.matrix_rank,
    "histc": lambda a: a.histc(4),
}
UNDER = {
    "no autocast": contextlib.nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("call", CALLS)
def test_refuses_half_precision(call, dtype, under):
    half = A.to(dtype)
    with CudaRules(), UNDER[under](), pytest.raises(RuntimeError, match="implement|dtype|float|types"):
        CALLS[call](half)


# Under an autocast torch's own pinv cannot work: half of what it computes is cast, and half is not.
@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("call", [call for call in CALLS if call != "pinv"])
def test_lets_float32_through(call, under):
    expected = CALLS[call](A)
    with CudaRules(), UNDER[under]():
        assert torch.allclose(CALLS[call](A), expected, rtol=2e-2, atol=2e-2)


def test_the_error_is_that_of_cuda():
    with CudaRules(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError, match=r"quantile\(\) input tensor must be either float or double"):
            (A @ A).quantile(0.5)
        with pytest.raises(RuntimeError, match="Low precision dtypes not supported"):
            torch.linalg.inv(A @ A)


def test_what_cuda_computes_in_half_precision_is_let_through():
    with CudaRules(), torch.autocast("cpu", torch.bfloat16):
        product = A @ A
        assert product.dtype == torch.bfloat16
        for result in (
            product.softmax(-1),
            product.sort().values,
            product.median(),
            product.norm(),
            product.cov(),
        ):
            assert result.isfinite().all()


def test_without_it_an_autocast_on_the_cpu_hides_the_fault():
    with torch.autocast("cpu", torch.bfloat16):
        assert (A @ A).quantile(0.5).dtype == torch.float32


def test_knows_the_functions_by_the_names_that_torch_gives_them():
    known = {*dir(torch), *dir(torch.Tensor), *(f"linalg_{name}" for name in dir(torch.linalg))}
    assert known >= REFUSED
