"""Pictures against pictures: PSNR, SSIM, L1; errors are averaged before any logarithm."""

from __future__ import annotations

import numpy as np


def picture_errors(drawn: np.ndarray, real: np.ndarray, weight: np.ndarray | None = None) -> dict[str, float]:
    """Frames (N, H, W, 3) uint8 against real ones.

    Args:
        weight: (N, H, W) bool, the pixels that count (the foreground); None: all. SSIM is for whole frames only.

    Returns:
        psnr (dB, of the mean squared error over all frames), l1 (0..1), and ssim without a weight.
    """
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
