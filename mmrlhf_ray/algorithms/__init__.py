"""Pure tensor maths: advantages, policy, value, reward-model, preference and SFT losses, KL, statistics.

Imports torch, numpy and the standard library only; takes numbers and tensors, never a configuration.
"""
