"""What goes over a backbone to make masks and boxes, and torchvision's own models for these."""
