"""Curvature of a model: in one call, or probe by probe while it trains."""

from foreshock.curvature.blocks import BlockShare, block_shares, name_parameters
from foreshock.curvature.choosing import ProductMethod, require_method
from foreshock.curvature.density import SpectralDensity, spectral_density
from foreshock.curvature.followed import ERROR_PER_STEP, FollowedRatio, refresh_curvature
from foreshock.curvature.gauss_newton import gauss_newton_sharpness
from foreshock.curvature.measurement import (
    MeanSquareStability,
    Sharpness,
    mean_square_stability,
    preconditioned_sharpness,
    sharpness,
    spectrum,
)
from foreshock.curvature.noise import NoiseReading, measure_noise
from foreshock.curvature.probe import CurvatureReading, ProbeMemory, ProbeSettings, probe_curvature
from foreshock.curvature.prober import NoiseProber, Prober
from foreshock.curvature.remarks import Remark
from foreshock.curvature.terms import LossFunction, check_loss_function, loss_terms, part_terms

__all__ = [
    "ERROR_PER_STEP",
    "BlockShare",
    "CurvatureReading",
    "FollowedRatio",
    "LossFunction",
    "MeanSquareStability",
    "NoiseProber",
    "NoiseReading",
    "ProbeMemory",
    "ProbeSettings",
    "Prober",
    "ProductMethod",
    "Remark",
    "Sharpness",
    "SpectralDensity",
    "block_shares",
    "check_loss_function",
    "gauss_newton_sharpness",
    "loss_terms",
    "mean_square_stability",
    "measure_noise",
    "name_parameters",
    "part_terms",
    "preconditioned_sharpness",
    "probe_curvature",
    "refresh_curvature",
    "require_method",
    "sharpness",
    "spectral_density",
    "spectrum",
]
