import pytest
import torch

from core.quant.lowrank import product_svd, truncated_svd, weighted_fit


def test_product_svd_equals_the_dense_one():
    torch.manual_seed(0)
    left, right = torch.randn(50, 6).double(), torch.randn(6, 40).double()
    u, s, v = product_svd(left, right)
    assert torch.allclose((u * s) @ v, left @ right)
    assert torch.allclose(s, torch.linalg.svdvals(left @ right)[:6])


def test_truncated_svd_is_near_the_optimum():
    torch.manual_seed(0)
    matrix = torch.randn(200, 120) * torch.linspace(3, 0.1, 120)
    u, s, v = truncated_svd(matrix, 16, iterations=4)
    best = torch.linalg.svdvals(matrix)[16:].square().sum()
    assert (matrix - (u * s) @ v).square().sum() < 1.01 * best


def test_rank_beyond_the_matrix_gives_all_of_it():
    matrix = torch.randn(5, 9)
    u, s, v = truncated_svd(matrix, 32)
    assert len(s) == 5
    assert torch.allclose((u * s) @ v, matrix, atol=1e-4)


def weighted_error(error, rows, lower, u, v):
    return ((error - u @ v) * rows[:, None] @ lower).square().sum()


def test_weighted_fit_is_the_optimum_that_descent_finds():
    """No reference in closed form: the same problem solved by a general minimiser."""
    torch.manual_seed(0)
    error, rows = torch.randn(20, 14).double(), torch.rand(20).double() + 0.1
    x = torch.randn(40, 14).double() @ torch.randn(14, 14).double()
    lower = torch.linalg.cholesky(x.t() @ x / 40)
    ours = weighted_error(error, rows, lower, *weighted_fit(error, rows, lower, 3))
    u = torch.randn(20, 3).double().requires_grad_()
    v = torch.randn(3, 14).double().requires_grad_()
    search = torch.optim.LBFGS([u, v], max_iter=3000, line_search_fn="strong_wolfe")

    def closure():
        search.zero_grad()
        loss = weighted_error(error, rows, lower, u, v)
        loss.backward()
        return loss

    search.step(closure)
    found = float(weighted_error(error, rows, lower, u, v))
    tail = torch.linalg.svdvals(error * rows[:, None] @ lower)[3:].square().sum()
    assert float(ours) == pytest.approx(float(tail), rel=1e-9)
    assert float(ours) <= found * (1 + 1e-9)
    assert found == pytest.approx(float(ours), rel=1e-3)
