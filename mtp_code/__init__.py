"""Multi-token prediction for code: train, decode.

Source of the method: Gloeckle et al. 2024, "Better & Faster Large Language Models via
Multi-token Prediction", arXiv 2404.19737.
"""
