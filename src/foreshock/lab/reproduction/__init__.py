"""The experiments of the paper on Adam's loss spikes, run again and judged by criteria in numbers.

*Adaptive Preconditioners Trigger Loss Spikes in Adam* (Bai et al. 2025, arXiv 2506.04805). Each experiment
is a frozen configuration and a run function, and each of the paper's claims a `Claim`: a statement, the
quantity that is measured, and the number that it must reach. The page with the verdicts is made of the
recorded results alone.
"""
