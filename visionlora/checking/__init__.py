"""What is wrong with images and labels, before anything is trained on them."""
