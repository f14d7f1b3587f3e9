"""LPIPS, FID and FVD through their standard networks: the extra `glass-gym[metrics]` (torchvision, downloads weights).

Offline, the Frechet distance over VGG-HED features stands in; it is called "VGG-HED Frechet distance", never FID.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to features (N, D) and (M, D) (Heusel et al. 2017).

    Raises:
        ValueError: fewer than two rows, or other widths.
    """
    from scipy import linalg

    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be (N, D) with N at least 2 and equal D, got {a.shape} and {b.shape}")
    ca = np.cov(a, rowvar=False)
    cb = np.cov(b, rowvar=False)
    ca = np.atleast_2d(ca)
    cb = np.atleast_2d(cb)
    # trace of the root of ca cb, through the eigenvalues of a symmetric matrix: exact where a covariance is singular
    values, vectors = linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def pooled_features(net: Callable[[Tensor], list[Tensor]], frames: np.ndarray, batch: int = 32) -> np.ndarray:
    """The last feature map's mean of frames (N, H, W, 3) uint8 -> (N, D)."""
    parts = []
    for part in np.array_split(frames, max(1, -(-len(frames) // batch))):
        image = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append(net(image)[-1].mean((2, 3)))
    return torch.cat(parts).numpy()


def lpips(drawn: Tensor, real: Tensor, net: str = "alex") -> float:
    """LPIPS of images (N, 3, H, W) in [-1, 1].

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return float(LearnedPerceptualImagePatchSimilarity(net_type=net)(drawn.clamp(-1, 1), real.clamp(-1, 1)))
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"LPIPS needs torchvision and a download: pip install 'glass-gym[metrics]' ({error})"
        ) from error


def fid(drawn: Tensor, real: Tensor, feature: int | torch.nn.Module = 2048) -> float:
    """FID of frames (N, 3, H, W) uint8: InceptionV3 pool features, or those of a module (N, 3, H, W) -> (N, D).

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        measure = FrechetInceptionDistance(feature=feature, input_img_size=tuple(drawn.shape[1:]))
    except (ImportError, ModuleNotFoundError) as error:
        raise ImportError(f"FID needs torch-fidelity: pip install 'glass-gym[metrics]' ({error})") from error
    measure.update(real, real=True)
    measure.update(drawn, real=False)
    return float(measure.compute())


def fvd(drawn: Tensor, real: Tensor, network: Callable[[Tensor], Tensor]) -> float:
    """FVD of videos (N, T, 3, H, W) uint8 (Unterthiner et al. 2018).

    Args:
        network: maps (N, 3, T, 224, 224) in [-1, 1] to features (N, D): the Kinetics I3D, loaded by the caller.
    """
    features = []
    for videos in (drawn, real):
        count, steps = videos.shape[:2]
        frames = torch.nn.functional.interpolate(videos.flatten(0, 1).float(), (224, 224), mode="bilinear")
        clips = (frames / 127.5 - 1).unflatten(0, (count, steps)).transpose(1, 2)
        features.append(torch.cat([network(part) for part in clips.split(4)]).detach().numpy())
    return frechet_distance(*features)
