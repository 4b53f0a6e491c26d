"""Backbones of timm and torchvision, and what is known of them."""
