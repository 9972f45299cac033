import torch

from core.quant.lowrank import product_svd, truncated_svd


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
