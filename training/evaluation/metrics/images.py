"""Errors of drawn frames: PSNR, SSIM, L1, Frechet distances, LPIPS and FID.

LPIPS and FID use their standard networks: the extra `glass-gym[metrics]` (torchvision; downloads weights). Without a
download there is the Frechet distance over VGG-HED features; it is called by that name, never FID.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def picture_errors(drawn: np.ndarray, real: np.ndarray, weight: np.ndarray | None = None) -> dict[str, float]:
    """PSNR (dB, of the mean squared error over all frames), L1 (0 to 1) and SSIM of drawn frames (N, H, W, 3) uint8
    against real ones; with `weight` (N, H, W) bool only of the pixels that count (the foreground), without SSIM."""
    difference = (drawn.astype(np.float64) - real.astype(np.float64)) / 255
    share = np.ones(drawn.shape[:3]) if weight is None else weight.astype(np.float64)
    total = max(1.0, share.sum() * 3)
    mse = (difference**2 * share[..., None]).sum() / total
    out = {
        "psnr": float(-10 * np.log10(max(mse, 1e-12))),
        "l1": float((np.abs(difference) * share[..., None]).sum() / total),
    }
    if weight is None:
        from skimage.metrics import structural_similarity

        pairs = zip(drawn, real, strict=True)
        out["ssim"] = float(np.mean([structural_similarity(a, b, channel_axis=2) for a, b in pairs]))
    return out


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to features (N, D) and (M, D), N and M at least 2 (Heusel et al. 2017).
    ValueError: other shapes."""
    from scipy import linalg

    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be (N, D) with N at least 2 and equal D, got {a.shape} and {b.shape}")
    ca, cb = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # trace of the root of ca cb, through the eigenvalues of a symmetric matrix: exact where a covariance is singular
    values, vectors = linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def lpips(drawn: Tensor, real: Tensor) -> float:
    """LPIPS, with AlexNet, of images (N, 3, H, W) in [-1, 1]; ImportError: the extra is not installed."""
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return float(LearnedPerceptualImagePatchSimilarity(net_type="alex")(drawn.clamp(-1, 1), real.clamp(-1, 1)))
    except (ImportError, RuntimeError) as error:
        told = f"LPIPS needs torchvision and a download: pip install 'glass-gym[metrics]' ({error})"
        raise ImportError(told) from error


def fid(drawn: Tensor, real: Tensor, feature: int | torch.nn.Module = 2048) -> float:
    """FID of frames (N, 3, H, W) uint8: InceptionV3 pool features, or those of a module (N, 3, H, W) -> (N, D).
    ImportError: the extra is not installed."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        measure = FrechetInceptionDistance(feature=feature, input_img_size=tuple(drawn.shape[1:]))
    except (ImportError, ModuleNotFoundError) as error:
        raise ImportError(f"FID needs torch-fidelity: pip install 'glass-gym[metrics]' ({error})") from error
    measure.update(real, real=True)
    measure.update(drawn, real=False)
    return float(measure.compute())
