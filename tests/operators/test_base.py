"""The preconditioned operator against its dense form."""

from __future__ import annotations

import pytest
import torch

from cases import CASES
from foreshock.operators import HessianOperator, PreconditionedOperator
from oracles import dense_hessian


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("shifted", [True, False])
def test_preconditioned_operator_is_the_symmetric_form(sign, shifted):
    case = CASES[0]
    model, batch = case.build()
    parameters = list(model.parameters())
    closure = lambda: case.loss_fn(model, batch)  # noqa: E731
    dense = sign * dense_hessian(closure, parameters)
    n = dense.shape[0]
    root, shift = torch.rand(n, dtype=torch.float64), torch.rand(n, dtype=torch.float64)
    if shifted:
        dense = dense + torch.diag(shift)
    expected = root[:, None] * dense * root[None, :]
    with HessianOperator(closure, parameters) as hessian:
        operator = PreconditionedOperator(hessian, root, shift=shift if shifted else None, sign=sign)
        vector = torch.randn(n, dtype=torch.float64)
        assert torch.allclose(operator(vector), expected @ vector, rtol=1e-9, atol=1e-12)
        assert torch.allclose(operator.curvature(vector), dense @ vector, rtol=1e-9, atol=1e-12)
        assert (operator.products, operator.backend) == (2, "double backward")
