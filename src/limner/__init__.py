"""Limner learns image styles with generative adversarial networks and makes the trained model a product."""

__version__ = "0.1.0"
